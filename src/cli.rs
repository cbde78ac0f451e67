//! The command line: everything that is not serving happens here.

use std::ffi::{OsStr, OsString};
use std::io::Write;

use crate::config::{Checked, Config, Env, Notice, SETTINGS, Setting, names, shown};
use crate::exit::Exit;

const USAGE: &str = "usage: codex-completions [serve] [--check-config | --help | --version]";

/// Looks at the arguments (without the program's name) and the environment and does what they ask for, except to
/// serve: then the settings come back, with warnings for the log.
///
/// # Errors
/// The program has nothing more to do but to exit so. Everything was said on `out` or `err`.
pub fn run(
    args: &[OsString],
    env: &Env,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(Config, Vec<Notice>), Exit> {
    let args = args.strip_prefix(&[OsString::from("serve")]).unwrap_or(args);
    let (text, exit) = match args.iter().map(|arg| arg.to_str()).collect::<Vec<_>>().as_slice() {
        [] => {
            let Checked { config, warnings } = Config::from_env(env);
            return match config {
                Ok(config) => Ok((config, warnings)),
                Err(problems) => {
                    let _ = err.write_all(notices(&problems, &warnings).as_bytes());
                    Err(Exit::Config)
                }
            };
        }
        [Some("--check-config")] => {
            let checked = Config::from_env(env);
            (check(&checked, env), if checked.config.is_ok() { Exit::Done } else { Exit::Config })
        }
        [Some("--help" | "-h")] => (help(), Exit::Done),
        [Some("--version" | "-V")] => (format!("codex-completions {}\n", env!("CARGO_PKG_VERSION")), Exit::Done),
        _ => {
            let given: Vec<_> = args.iter().map(|arg| shown(&arg.to_string_lossy())).collect();
            let _ = writeln!(err, "codex-completions does not understand `{}`\n{USAGE}", given.join(" "));
            return Err(Exit::Config);
        }
    };
    // A reader that has gone away changes nothing about the exit.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Err(exit)
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = format!(
        "\
codex-completions: an OpenAI-compatible API over one persistent, logged-in `codex app-server`

{USAGE}

  serve            listen, start codex and answer until SIGINT or SIGTERM (the default)
  --check-config   print every setting with its effective value, warnings and problems; exit 0 or 2
  -h, --help       print this
  -V, --version    print the version

One line goes to stdout, `listening on http://HOST:PORT/v1`, once requests are accepted; the log goes to stderr. The
first signal lets running requests finish, a second one does not. Exit: 0 stopped or printed, 1 an address cannot be
bound, 2 a wrong setting or argument.

Settings are environment variables. An empty one counts as unset; yes is 1, true, yes or on, no is 0, false, no or off;
times are in milliseconds, MB are 1,048,576 bytes.

"
    );
    for Setting { name, default, help } in SETTINGS {
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        text.push_str(&format!("  {name}{default}\n      {help}\n"));
    }
    text.push_str(
        "
Examples:
  codex login && codex-completions
  PORT=8080 PROXY_API_KEY=a-key-of-your-own PROXY_HOST=0.0.0.0 codex-completions
  curl http://127.0.0.1:11435/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'
",
    );
    text
}

/// The text of `--check-config`.
fn check(checked: &Checked, env: &Env) -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let given = env.get(OsStr::new(setting.name)).map(|value| value.to_string_lossy());
        let given = given.as_deref().map(str::trim).filter(|value| !value.is_empty());
        let (value, remark) = match (&checked.config, given) {
            (Ok(config), _) if setting.name == names::CODEX_HOME => {
                (shown(&config.codex_home.path.to_string_lossy()), config.codex_home.reason)
            }
            (_, Some(_)) if [names::API_KEY, names::OPENAI_API_KEY].contains(&setting.name) => {
                ("***".to_owned(), "set")
            }
            (_, Some(value)) => (shown(value), "set"),
            (_, None) if setting.default.is_empty() => (String::new(), "not set"),
            (_, None) => (setting.default.to_owned(), "default"),
        };
        text.push_str(&format!("{}={value}  ({remark})\n", setting.name));
    }
    let none = Vec::new();
    text + &notices(checked.config.as_ref().err().unwrap_or(&none), &checked.warnings)
}

fn notices(problems: &[Notice], warnings: &[Notice]) -> String {
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}\n"));
    warnings.chain(problems.iter().map(|problem| format!("problem: {problem}\n"))).collect()
}
