//! Everything that can be set, read once at start from the environment. Defaults are values of the [`table`] and go
//! through the same parsers, so that `--help`, `--check-config` and the program cannot disagree.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::turn::Aliases;

pub mod home;
pub mod table;
mod values;

pub use home::CodexHome;
pub use table::{Config, SETTINGS, names};
pub use values::{
    Env, KeepaliveForm, LogFormat, Notice, Profile, PromptMode, ProtocolChoice, Sandbox, Secret, Setting, shown,
};

pub(crate) use values::escaped;
use values::{Reader, truth};

/// `sun_path` with its final NUL.
const UNIX_PATH_BYTES: usize = 107;
/// The longest file of keys that is read.
const KEY_FILE_BYTES: u64 = 1024 * 1024;
/// The key that the Node proxy had built in.
const NODE_KEY: &str = "codex-local-secret";

/// What [`Config::from_env`] found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The settings, or every problem that they have.
    pub config: Result<Config, Vec<Notice>>,
    /// What does not stand in the way: unknown names, the Node proxy's variables, readable secrets.
    pub warnings: Vec<Notice>,
}

impl Config {
    /// Reads and checks all settings. Looks at files only for CODEX_HOME and PROXY_API_KEY_FILE.
    pub fn from_env(env: &Env) -> Checked {
        let mut reader = Reader { settings: SETTINGS, env, problems: Vec::new(), warnings: Vec::new() };
        let config = Config::read(&mut reader);
        other_names(&mut reader);
        let Reader { problems, warnings, .. } = reader;
        Checked { config: if problems.is_empty() { Ok(config) } else { Err(problems) }, warnings }
    }
}

fn host(read: &mut Reader<'_>, name: &'static str) -> IpAddr {
    let wanted = "an IP address such as 127.0.0.1, ::1 or 0.0.0.0, or localhost";
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let parse = |text: &str| if text.eq_ignore_ascii_case("localhost") { Some(loopback) } else { text.parse().ok() };
    let host = read.parsed(name, wanted, |text| parse(text).map(Some)).unwrap_or(loopback);
    let key_given = [names::API_KEY, names::API_KEY_FILE].map(|name| read.text(name)) != ["", ""];
    if !host.to_canonical().is_loopback() && !key_given {
        let cure = "set PROXY_API_KEY or PROXY_API_KEY_FILE, or listen on 127.0.0.1";
        read.problem(name, format!("{host} can be reached by others and no key protects it: {cure}"));
    }
    host
}

fn unix_socket(read: &mut Reader<'_>, name: &'static str) -> Option<PathBuf> {
    let path = read.given(name)?;
    if path.len() > UNIX_PATH_BYTES {
        read.problem(name, format!("the path is longer than {UNIX_PATH_BYTES} bytes: give a shorter one"));
    }
    Some(PathBuf::from(path))
}

/// The keys of both settings. A setting that holds none is a problem: whoever set it believes to be protected.
fn keys(read: &mut Reader<'_>, name: &'static str) -> Vec<Secret> {
    let mut keys = read.given(name).map_or_else(Vec::new, |list| some_keys(read, name, list.split(',')));
    let Some(path) = read.given(names::API_KEY_FILE) else { return keys };
    match read_key_file(Path::new(path)) {
        Ok((text, metadata)) => {
            if metadata.permissions().mode() & 0o004 != 0 {
                read.warning(names::API_KEY_FILE, "everybody on this machine can read the file: chmod 600 it");
            }
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            keys.extend(some_keys(read, names::API_KEY_FILE, lines));
        }
        Err(error) => {
            let cure = "give the path of a file with one key per line";
            read.problem(names::API_KEY_FILE, format!("the file cannot be read ({error}): {cure}"));
        }
    }
    keys
}

fn read_key_file(path: &Path) -> io::Result<(String, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    if file.take(KEY_FILE_BYTES + 1).read_to_string(&mut text)? as u64 > KEY_FILE_BYTES {
        return Err(io::Error::other("it is longer than 1 MB"));
    }
    Ok((text, metadata))
}

fn some_keys<'t>(read: &mut Reader<'_>, name: &str, parts: impl Iterator<Item = &'t str>) -> Vec<Secret> {
    let keys: Vec<&str> = parts.map(str::trim).filter(|key| !key.is_empty()).collect();
    if keys.is_empty() {
        read.problem(name, "holds no key: put one in, or unset it");
    }
    if !keys.iter().all(|key| key.bytes().all(|byte| byte.is_ascii_graphic())) {
        read.problem(name, "a key holds a space or a character that is not ASCII, which no client can send: change it");
    }
    if keys.contains(&NODE_KEY) {
        read.warning(name, "this key was built into the Node proxy and is known to everybody: choose one of your own");
    }
    keys.into_iter().map(Secret::new).collect()
}

fn aliases(read: &mut Reader<'_>, name: &'static str) -> Aliases {
    Aliases::parse(read.text(name)).unwrap_or_else(|problem| {
        read.problem(name, format!("{problem}: give name=id,name=id, where * is every other name"));
        Aliases::default()
    })
}

fn codex_home(read: &mut Reader<'_>, name: &'static str) -> CodexHome {
    let given = read.given(name);
    let home = read.env.get(OsStr::new("HOME")).filter(|home| !home.is_empty()).map(Path::new);
    match home::choose(given, home, Path::exists) {
        // Fails only where there is no working directory; then the relative path fails later, with a reason.
        Ok(chosen) => CodexHome { path: std::path::absolute(&chosen.path).unwrap_or(chosen.path), ..chosen },
        Err(problem) => {
            read.problem(name, problem);
            CodexHome { path: PathBuf::new(), reason: "" }
        }
    }
}

fn keepalive_form(read: &mut Reader<'_>, name: &'static str) -> KeepaliveForm {
    // "0 = off" holds for the time and for the form, there in all the words for no.
    let never = read.text(names::SSE_KEEPALIVE_MS).parse() == Ok(0);
    match read.given(name).and_then(truth) {
        Some(false) => KeepaliveForm::Off,
        _ => Some(read.choice(name, KeepaliveForm::ALL)).filter(|_| !never).unwrap_or(KeepaliveForm::Off),
    }
}

fn cors_origins(read: &mut Reader<'_>, name: &'static str) -> Vec<String> {
    let wanted = "* or origins such as https://app.example:8443, comma separated, without a path or a final slash";
    let origin = |text: &str| {
        let (scheme, authority) = text.split_once("://").unwrap_or_default();
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        text == "*" || !scheme.is_empty() && !authority.is_empty() && authority.bytes().all(fits)
    };
    read.parsed(name, wanted, |text| {
        let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        (!parts.is_empty() && parts.iter().all(|part| origin(part))).then_some(parts)
    })
}

/// The directives that have a level that exists. The variable is not only ours, so that others are no problem.
fn log_filter(read: &mut Reader<'_>, name: &'static str) -> String {
    let level = |text: &str| text.trim().is_empty() || text.trim().parse::<LevelFilter>().is_ok();
    let fits = |directive: &&str| directive.rsplit_once('=').is_none_or(|(_, text)| level(text));
    let (good, bad): (Vec<&str>, Vec<&str>) = read.text(name).split(',').partition(fits);
    for directive in bad {
        read.warning(name, format!("`{}` is left out: give a level or target=level", shown(directive)));
    }
    if good.is_empty() { LevelFilter::Info.to_string() } else { good.join(",") }
}

/// Warns of variables that somebody set in vain.
fn other_names(read: &mut Reader<'_>) {
    let set = read.env.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.to_string_lossy());
    for name in set.filter(|name| SETTINGS.iter().all(|setting| setting.name != name)) {
        if let Some(fate) = table::fate(&name) {
            read.warning(&shown(&name), format!("a variable of the Node proxy: {fate}"));
        } else if name.starts_with("PROXY_") {
            let nearest = table::nearest(&name);
            read.warning(&shown(&name), format!("is not known and has no effect; the nearest name is {nearest}"));
        }
    }
}
