//! Which names of models exist and what they come to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use codex_completions::api::Effort;
use codex_completions::api::models::Names;
use codex_completions::turn::Aliases;
use codex_completions::turn::{Model, Models};

fn models(open: bool) -> Models {
    let model = |id: &str, efforts: &[&str]| Model {
        id: id.to_owned(),
        efforts: efforts.iter().map(|effort| (*effort).to_owned()).collect(),
    };
    Models {
        default: Some("gpt-6-sol".into()),
        listed: vec![
            model("gpt-6-sol", &["low", "medium", "high", "xhigh"]),
            model("gpt-6-max-high", &["minimal", "high"]),
            model("bare", &[]),
        ],
        open,
    }
}

#[test]
fn names_come_to_models() {
    let aliases =
        Aliases::parse("fast=gpt-6-sol-low, gpt-4o=bare,codex=codex-5,odd=hidden-high,gpt-6-sol-xhigh=bare").unwrap();
    let closed = models(false);
    let open = Models { open: true, ..closed.clone() };
    let unknown = Models { default: None, listed: Vec::new(), open: true };
    // models, CODEX_MODEL, asked -> id, effort, name
    type Row<'a> = (&'a Models, Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>, &'a str);
    let rows: [Row<'_>; 28] = [
        (&closed, None, None, Some("gpt-6-sol"), None, "gpt-6-sol"),
        (&closed, Some("mine"), None, Some("mine"), None, "mine"),
        (&unknown, None, None, None, None, "codex-5"),
        (&closed, None, Some("codex-5"), Some("gpt-6-sol"), None, "codex-5"),
        (&closed, Some("bare"), Some("codex-5"), Some("bare"), None, "codex-5"),
        (&unknown, None, Some("codex-5"), None, None, "codex-5"),
        (&unknown, None, Some("codex-5-high"), None, Some("high"), "codex-5-high"),
        (&closed, None, Some("codex-5-high"), Some("gpt-6-sol"), Some("high"), "codex-5-high"),
        (&closed, None, Some("bare"), Some("bare"), None, "bare"),
        (&closed, None, Some("bare-minimal"), Some("bare"), Some("minimal"), "bare-minimal"),
        (&closed, None, Some("gpt-6-sol-minimal"), Some("gpt-6-sol"), Some("low"), "gpt-6-sol-minimal"),
        (&closed, None, Some("gpt-6-max-high"), Some("gpt-6-max-high"), None, "gpt-6-max-high"),
        (&closed, None, Some("gpt-6-max-high-low"), Some("gpt-6-max-high"), Some("minimal"), "gpt-6-max-high-low"),
        (&closed, None, Some("gpt-6-max-high-xhigh"), Some("gpt-6-max-high"), Some("high"), "gpt-6-max-high-xhigh"),
        (&closed, None, Some("fast"), Some("gpt-6-sol"), Some("low"), "fast"),
        (&closed, None, Some("fast-high"), Some("gpt-6-sol"), Some("high"), "fast-high"),
        (&closed, None, Some("gpt-4o"), Some("bare"), None, "gpt-4o"),
        (&closed, None, Some("gpt-4o-medium"), Some("bare"), Some("medium"), "gpt-4o-medium"),
        (&closed, None, Some("codex"), Some("gpt-6-sol"), None, "codex"),
        (&closed, None, Some("odd"), Some("hidden-high"), None, "odd"),
        (&closed, None, Some("gpt-6-sol-xhigh"), Some("bare"), None, "gpt-6-sol-xhigh"),
        (&closed, Some("mine"), Some("mine-high"), Some("mine"), Some("high"), "mine-high"),
        (&open, None, Some("llama-high"), Some("llama-high"), None, "llama-high"),
        (&open, None, Some("gpt-6-sol-high"), Some("gpt-6-sol"), Some("high"), "gpt-6-sol-high"),
        (&unknown, None, Some("x/y:z"), Some("x/y:z"), None, "x/y:z"),
        (&unknown, Some("m"), None, Some("m"), None, "m"),
        (&open, None, Some("-high"), Some("-high"), None, "-high"),
        (&open, None, Some("gpt-6-sol-none"), Some("gpt-6-sol-none"), None, "gpt-6-sol-none"),
    ];
    for (models, configured, asked, id, effort, name) in rows {
        let names = Names { models, aliases: &aliases, configured };
        let got = names.resolve(asked, None).unwrap();
        let got = (got.id.as_deref(), got.effort.as_deref(), got.name.as_str());
        assert_eq!(got, (id, effort, name), "{asked:?}");
        assert!(asked.is_none_or(|asked| names.get(asked).is_ok()));
    }
    let names = Names { models: &closed, aliases: &aliases, configured: None };
    for asked in ["nope", "nope-high", "", "gpt-6", "gpt-6-sol-", "*"] {
        let error = names.resolve(Some(asked), None).unwrap_err();
        assert_eq!((error.status, error.code, error.param.as_deref()), (404, Some("model_not_found"), Some("model")));
        assert_eq!(names.get(asked).unwrap_err().status, 404);
    }
}

#[test]
fn a_star_catches_every_other_name() {
    let aliases = Aliases::parse("*=gpt-6-sol-low").unwrap();
    for models in [models(false), models(true)] {
        let names = Names { models: &models, aliases: &aliases, configured: None };
        let resolve = |name| names.resolve(Some(name), None).map(|r| (r.id, r.effort, r.name)).unwrap();
        let sol = Some("gpt-6-sol".to_owned());
        assert_eq!(resolve("gpt-4o"), (sol.clone(), Some("low".to_owned()), "gpt-4o".to_owned()));
        assert_eq!(resolve("o3-high"), (sol, Some("high".to_owned()), "o3-high".to_owned()));
        assert_eq!(resolve("bare"), (Some("bare".to_owned()), None, "bare".to_owned()));
    }
}

#[test]
fn an_effort_of_its_own_field_counts_more_and_has_to_be_listed() {
    let (models, aliases) = (models(false), Aliases::default());
    let names = Names { models: &models, aliases: &aliases, configured: None };
    let effort = |value: &str| Effort { value: value.to_owned(), param: "reasoning.effort" };
    let resolve = |name, value| names.resolve(Some(name), Some(&effort(value))).map(|r| r.effort);
    assert_eq!(resolve("gpt-6-sol-low", "high"), Ok(Some("high".to_owned())));
    assert_eq!(resolve("bare", "none"), Ok(Some("none".to_owned())));
    let error = resolve("gpt-6-sol", "minimal").unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (400, Some("reasoning.effort")));
    assert_eq!(
        error.message,
        "`reasoning.effort` of `gpt-6-sol` must be one of low, medium, high, xhigh, got `minimal`."
    );
}

#[test]
fn aliases_are_read_or_all_that_is_wrong_is_said() {
    assert_eq!(Aliases::parse(" , "), Ok(Aliases::default()));
    assert_eq!(
        Aliases::parse("a=b,a=c,=x,y=,z,*=1,*=2").unwrap_err(),
        "`a` is there twice, `=x` lacks a side, `y=` lacks a side, `z` is not of the form name=id, `*` is there twice"
    );
}

#[test]
fn lists_are_the_models_the_configured_one_and_the_aliases() {
    let aliases = Aliases::parse("fast=bare,bare=gpt-6-sol,*=bare").unwrap();
    let models = models(false);
    let names = Names { models: &models, aliases: &aliases, configured: Some("mine") };
    let list: serde_json::Value = serde_json::from_str(&names.list()).unwrap();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["gpt-6-sol", "gpt-6-max-high", "bare", "mine", "fast"]);
    assert_eq!(
        names.get("fast").unwrap(),
        r#"{"id":"fast","object":"model","created":1735689600,"owned_by":"openai"}"#
    );
    let nothing = Models { default: None, listed: Vec::new(), open: true };
    let names = Names { models: &nothing, aliases: &Aliases::default(), configured: None };
    assert_eq!(
        names.list(),
        r#"{"object":"list","data":[{"id":"codex-5","object":"model","created":1735689600,"owned_by":"openai"}]}"#
    );
}
