//! Which program `CODEX_BIN` is. npm puts a JavaScript launcher on `PATH`; it costs 22 – 41 MB and leaves the native
//! child behind when it is killed, so the native binary of its platform package is started instead.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A codex that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// What to start.
    pub path: PathBuf,
    /// Whether it is a script, such as the launcher, because the native binary behind it was not found.
    pub launcher: bool,
}

/// Finds the program that `codex_bin` (a path, or a name on `path`) stands for.
///
/// # Errors
/// Words for a person: nothing executable is there.
pub fn resolve(codex_bin: &OsStr, path: Option<&OsStr>) -> Result<Binary, String> {
    let found = if codex_bin.as_encoded_bytes().contains(&b'/') {
        Some(PathBuf::from(codex_bin)).filter(|file| executable(file))
    } else {
        std::env::split_paths(path.unwrap_or_default()).map(|dir| dir.join(codex_bin)).find(|file| executable(file))
    };
    // A path stays out of it: clients get these words too.
    let found = found.ok_or("CODEX_BIN: no executable found; install codex (npm install -g @openai/codex)")?;
    let real = found.canonicalize().unwrap_or_else(|_| found.clone());
    if !is_script(&real).unwrap_or(false) {
        return Ok(Binary { path: real, launcher: false });
    }
    // Another script may have its reasons.
    let native = if real.extension().is_some_and(|ext| ext == "js") { native_beside(&real) } else { None };
    Ok(match native {
        Some(path) => Binary { path, launcher: false },
        None => Binary { path: real, launcher: true },
    })
}

fn executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_script(file: &Path) -> io::Result<bool> {
    let mut start = [0; 2];
    io::Read::read_exact(&mut std::fs::File::open(file)?, &mut start)?;
    Ok(&start == b"#!")
}

/// `…/@openai/codex/bin/codex.js` has its binary in `@openai/codex-linux-ARCH` (beside it or in its own node_modules), in
/// older versions in its own `vendor`.
fn native_beside(launcher: &Path) -> Option<PathBuf> {
    let package = launcher.parent()?.parent()?;
    let (npm, triple) = match std::env::consts::ARCH {
        "aarch64" => ("codex-linux-arm64", "aarch64-unknown-linux-musl"),
        _ => ("codex-linux-x64", "x86_64-unknown-linux-musl"),
    };
    let roots = [package.parent()?.join(npm), package.join("node_modules/@openai").join(npm), package.to_path_buf()];
    roots
        .iter()
        .flat_map(|root| ["bin/codex", "codex/codex"].map(|tail| root.join("vendor").join(triple).join(tail)))
        .find(|file| executable(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_launcher_gives_way_to_its_native_binary_in_every_layout() {
        let dir = std::env::temp_dir().join(format!("codex-completions-binary-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let launcher = dir.join("lib/node_modules/@openai/codex/bin/codex.js");
        put(&launcher, "#!/usr/bin/env node\n");
        fs::create_dir_all(dir.join("bin")).unwrap();
        std::os::unix::fs::symlink(&launcher, dir.join("bin/codex")).unwrap();
        let path = dir.join("bin");
        let found = resolve(OsStr::new("codex"), Some(path.as_os_str())).unwrap();
        assert_eq!(found, Binary { path: launcher.canonicalize().unwrap(), launcher: true });
        let (npm, triple) = match std::env::consts::ARCH {
            "aarch64" => ("codex-linux-arm64", "aarch64-unknown-linux-musl"),
            _ => ("codex-linux-x64", "x86_64-unknown-linux-musl"),
        };
        for native in [
            format!("lib/node_modules/@openai/codex/vendor/{triple}/codex/codex"),
            format!("lib/node_modules/@openai/codex/node_modules/@openai/{npm}/vendor/{triple}/codex/codex"),
            format!("lib/node_modules/@openai/{npm}/vendor/{triple}/bin/codex"),
        ] {
            let native = dir.join(native);
            put(&native, "ELF");
            let found = resolve(OsStr::new("codex"), Some(path.as_os_str())).unwrap();
            assert_eq!(found, Binary { path: native.canonicalize().unwrap(), launcher: false });
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn another_script_is_started_as_it_is() {
        let dir = std::env::temp_dir().join(format!("codex-completions-script-{}", std::process::id()));
        let script = dir.join("codex");
        put(&script, "#!/bin/sh\nexec something\n");
        let found = resolve(script.as_os_str(), None).unwrap();
        assert_eq!(found, Binary { path: script.canonicalize().unwrap(), launcher: true });
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_the_cure() {
        let error = resolve(OsStr::new("/nonexistent/codex"), None).unwrap_err();
        assert!(error.contains("CODEX_BIN") && error.contains("npm install"), "{error}");
        assert!(resolve(OsStr::new("codex"), Some(OsStr::new("/nonexistent"))).is_err());
    }
}
