//! Lines of the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codex_completions::config::LogFormat;
use codex_completions::logs::{line, timestamp};
use log::{Level, Record};

fn logged(format: LogFormat, msg: &str) -> String {
    let now = UNIX_EPOCH + Duration::from_millis(1_795_258_192_007);
    line(format, now, &Record::builder().level(Level::Info).target("http").args(format_args!("{msg}")).build())
}

#[test]
fn a_record_is_one_line_of_text_whatever_stands_in_it() {
    assert_eq!(logged(LogFormat::Text, "ready, ünïcode"), "2026-11-21T10:49:52.007Z INFO  http: ready, ünïcode");
    let forged = logged(LogFormat::Text, "a\n2026 INFO b\r\u{1b}[2Jc\0\u{85}\u{2028}\u{2029}\td");
    assert!(!forged.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{forged:?}");
    assert!(forged.ends_with(r"a\n2026 INFO b\r\u{1b}[2Jc\u{0}\u{85}\u{2028}\u{2029}\td"), "{forged}");
}

#[test]
fn a_record_is_one_json_object() {
    let msg = "a \"quoted\" \\ line\nand another\r\u{1b}\u{0}\u{2028} ünïcode";
    let text = logged(LogFormat::Json, msg);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    let wanted = serde_json::json!({"ts": "2026-11-21T10:49:52.007Z", "level": "INFO", "target": "http", "msg": msg});
    assert_eq!(object, wanted);
}

#[test]
fn timestamps_know_the_calendar() {
    for (secs, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399, "2000-02-28T23:59:59.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (951_868_800, "2000-03-01T00:00:00.000Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        (1_735_689_600, "2025-01-01T00:00:00.000Z"),
        (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000Z"),
    ] {
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(secs)), text);
    }
    assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00.000Z");
    assert!(timestamp(SystemTime::now()).starts_with("20"));
}

#[test]
fn every_day_of_four_centuries_follows_the_one_before() {
    let date = |day: u64| timestamp(UNIX_EPOCH + Duration::from_secs(day * 86_400))[..10].to_owned();
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for number in 0..150_000 {
        assert_eq!(date(number), format!("{year:04}-{month:02}-{day:02}"));
        let length = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
        day += 1;
        if day > length {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}
