//! How a generation comes to be: a home, what the person's configuration says, a catalog, a process, its version, its
//! login and its models. What a start learns, the next one knows.

use std::fmt::Display;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::binary::Binary;
use super::connection::{CallError, Connection};
use super::dialect::capabilities::{Capabilities, Feature};
use super::dialect::errors::Refusal;
use super::dialect::profile::{self, Keys};
use super::dialect::{Dialect, Session, catalog};
use super::generation::Generation;
use super::home::{Base, Home, link, write_private};
use super::inherit::{self, Inherited, Outside, Person};
use super::process::{self, Launch, run_once};
use super::redact::for_clients;
use super::router::Cause;
use super::shared::Shared;
use super::sources::{Sources, Stamp};
use crate::config::{Profile, names};
use crate::deadline::Deadline;
use crate::turn::{Model, Models};

/// Longest wait for what is asked once at start and is not needed to serve.
const ASK: Duration = Duration::from_secs(3);
/// The same for models: 0.77 – 0.98 spend three seconds on them where the network is out of reach.
const ASK_MODELS: Duration = Duration::from_secs(5);
/// Longest run of `codex --version`, and most bytes that it may print.
const VERSION: (Duration, u64) = (Duration::from_secs(2), 4096);
/// The file with the number that codex gives its installation.
const INSTALLATION: &str = "installation_id";
/// How many keys a codex may refuse before it is given up.
const REFUSALS: usize = 8;

/// What was learned from earlier starts.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// The binary that the next four are about.
    binary: Option<Stamp>,
    /// Keys that it refused.
    refused: Vec<String>,
    /// Methods that it turned out not to have.
    missing: Vec<&'static str>,
    /// What it is, and what it read of the configuration of this look.
    learned: Option<(Option<Stamp>, Capabilities, Arc<Person>)>,
    /// The models that it listed, where it takes its time over them.
    models: Option<(Sources, Models)>,
    /// What of the lean profile the service refuses.
    pub refusals: Vec<Refusal>,
    /// What has been said once.
    said: Vec<String>,
}

impl Knowledge {
    /// Forgets what was learned of another binary.
    fn turn_to(&mut self, binary: Option<&Stamp>) {
        if self.binary.as_ref() != binary {
            let (refusals, said) = (std::mem::take(&mut self.refusals), std::mem::take(&mut self.said));
            *self = Self { binary: binary.cloned(), refusals, said, ..Self::default() };
        }
    }

    /// A codex made from these turned out not to have a method.
    pub fn lacks(&mut self, sources: &Sources, method: &'static str) {
        if self.binary == sources.binary_stamp {
            self.missing.push(method);
        }
    }

    fn say_once(&mut self, words: &str) {
        if !self.said.iter().any(|said| said == words) {
            log::warn!("{words}");
            self.said.push(words.to_owned());
        }
    }
}

/// A start under way.
struct Start<'a> {
    shared: &'a Shared,
    number: u64,
    sources: Sources,
    binary: Binary,
    base: Base,
    home: Home,
}

/// Why there is no connection: words for a person, and the key that codex ended over.
struct Unconnected {
    words: String,
    key: Option<String>,
}

/// Makes a home, starts codex on it and asks what has to be known. Takes as long as the deadlines allow.
///
/// # Errors
/// Words for a person.
pub(super) fn start(
    shared: &Shared,
    number: u64,
    sources: Sources,
    on_end: impl Fn(Cause) + Clone + Send + 'static,
) -> Result<Generation, String> {
    let began = Instant::now();
    let binary = sources.binary.clone()?;
    {
        let mut knowledge = shared.knowledge();
        knowledge.turn_to(sources.binary_stamp.as_ref());
        if binary.launcher {
            knowledge.say_once(
                "CODEX_BIN is a script and the native binary behind it was not found: codex may cost more memory",
            );
        }
    }
    let base = Base::open(&shared.config.codex_home.path)?;
    let home = base.create_home()?;
    let start = Start { shared, number, sources, binary, base, home };
    let generation = start.run(on_end)?;
    let capabilities = &generation.session.capabilities;
    log::info!(
        "app-server {number} is ready after {} ms: codex {}, protocol {}, prompt {}, pid {}",
        began.elapsed().as_millis(),
        capabilities.version.map_or("of unknown version".to_owned(), |version| version.to_string()),
        generation.session.dialect.name(),
        generation.session.prompt(),
        generation.session.connection.group.pid(),
    );
    let mut knowledge = shared.knowledge();
    capabilities.remark().iter().chain(&generation.degraded()).for_each(|line| knowledge.say_once(line));
    Ok(generation)
}

impl Start<'_> {
    fn run(self, on_end: impl Fn(Cause) + Clone + Send + 'static) -> Result<Generation, String> {
        let config = &self.shared.config;
        let person_home = &config.codex_home.path;
        let lean = config.profile == Profile::Lean;
        let refusals = self.shared.knowledge().refusals.clone();
        let (capabilities, person) = self.learn()?;
        let inherited = person.inherit(&Outside {
            model: config.codex_model.as_deref(),
            provider: config.force_provider.as_deref(),
            api_key: config.openai_api_key.as_ref(),
            logged_in: self.sources.auth.is_some(),
            visible: !lean,
        });
        let bare = lean && !capabilities.has(Feature::SkillSettings);
        self.furnish(&inherited, bare).map_err(|e| format!("a home for codex cannot be furnished: {e}"))?;
        let mut costs: Vec<String> = self.base.temporary.iter().chain(&inherited.warnings).cloned().collect();
        if lean && person_home.join(".env").exists() {
            costs.push(
                "CODEX_HOME has a .env, which is not carried over: put the variables that a provider needs \
                 into the environment of this program"
                    .to_owned(),
            );
        }
        let mut keys = Keys::new(config.sandbox.as_str(), &self.home.sqlite());
        let own = inherited.definition.iter().filter(|_| !lean);
        inherited.keys.iter().chain(own).for_each(|(key, value)| keys.add(key, value.clone()));
        if lean {
            keys.add_lean(&capabilities);
        }
        if lean && capabilities.has(Feature::Catalog) && !refusals.contains(&Refusal::Catalog) {
            let keep_instructions = refusals.contains(&Refusal::Instructions);
            let catalog = self.catalog(&inherited, keep_instructions);
            catalog.iter().for_each(|catalog| keys.add("model_catalog_json", &*catalog.to_string_lossy()));
        }
        let codex_home = if lean { self.home.dir() } else { person_home };
        let muted = capabilities.muted(config.protocol);
        let (connection, agent) = loop {
            let refused = self.shared.knowledge().refused.clone();
            refused.iter().for_each(|key| keys.leave_out(key));
            let args =
                if capabilities.has(Feature::StartConfig) { keys.arguments() } else { vec!["app-server".to_owned()] };
            log::info!("spawning (app-server): {} {}", self.binary.path.display(), args.join(" "));
            let launch = Launch { bare, ..self.launch(&args, codex_home) };
            match self.connect(&launch, &muted, config.debug_app_server, on_end.clone()) {
                Ok(connected) => break connected,
                Err(Unconnected { key: Some(key), .. }) if refused.len() < REFUSALS => {
                    log::info!("this codex does not take `{key}`; starting without it");
                    self.shared.knowledge().refused.push(key);
                }
                Err(Unconnected { words, .. }) => return Err(words),
            }
        };
        let chosen = Capabilities::of(&agent).and_then(|mut capabilities| {
            self.shared.knowledge().missing.iter().for_each(|method| capabilities.correct(method));
            let (dialect, joined) = capabilities.choose(config.protocol, config.prompt_mode)?;
            Ok((capabilities, dialect, joined))
        });
        let (capabilities, dialect, joined) = chosen.inspect_err(|_| drop(connection.end()))?;
        if dialect == Dialect::V1 {
            connection.router.route_by_conversation();
        }
        // What cannot be answered from here on stays open: it is no failure.
        let env_key = inherited.env_key.as_deref();
        let unusable = unusable(&connection, env_key, &Deadline::after(names::APP_SERVER_START, ASK));
        let models = self.models(&connection, &capabilities, &inherited);
        let base_instructions = lean && !refusals.contains(&Refusal::Instructions);
        let thread_config = dialect == Dialect::V1 || !capabilities.has(Feature::StartConfig);
        let session = Session {
            connection,
            dialect,
            capabilities,
            model: models.default.clone(),
            cwd: self.home.scratch().to_string_lossy().into_owned(),
            sandbox: config.sandbox.as_str(),
            base_instructions: base_instructions.then(|| config.base_instructions.clone()),
            thread_config: thread_config.then(|| keys.thread_config(env_key == Some(names::OPENAI_API_KEY))),
            lean,
            joined,
        };
        if lean {
            self.keep_installation();
        }
        Ok(Generation {
            number: self.number,
            session,
            models: Arc::new(models),
            unusable,
            sources: self.sources,
            turns: AtomicUsize::new(0),
            costs,
            home: self.home,
        })
    }

    fn launch<'l>(&'l self, args: &'l [String], codex_home: &'l Path) -> Launch<'l> {
        let tag = format!("app-server {}", self.number);
        Launch { binary: &self.binary, args, home: codex_home, bare: false, cwd: self.home.scratch(), tag }
    }

    /// Puts into the home what codex needs there; into a `bare` one, what keeps it from bringing its skills.
    fn furnish(&self, inherited: &Inherited, bare: bool) -> io::Result<()> {
        let (person, own) = (&self.shared.config.codex_home.path, self.home.dir());
        link(&person.join("auth.json"), &own.join("auth.json"))?;
        // Sent upstream; made anew where it is missing.
        if let Ok(id) = fs::read(person.join(INSTALLATION)).or_else(|_| fs::read(self.base.file(INSTALLATION))) {
            write_private(&own.join(INSTALLATION), &id)?;
        }
        if bare {
            fs::create_dir(own.join("skills"))?;
            write_private(&own.join("skills/.system"), b"")?;
        }
        write_private(&own.join("config.toml"), inherited.config.as_bytes())
    }

    /// Keeps the number that codex gave an installation without one: else each home would pass for another.
    fn keep_installation(&self) {
        let kept = self.base.file(INSTALLATION);
        if !kept.exists() && !self.shared.config.codex_home.path.join(INSTALLATION).exists() {
            let made = fs::read(self.home.dir().join(INSTALLATION)).and_then(|id| write_private(&kept, &id));
            made.unwrap_or_else(|e| log::debug!("no {INSTALLATION} is kept: {e}"));
        }
    }

    /// What codex this is and what the person's configuration says.
    fn learn(&self) -> Result<(Capabilities, Arc<Person>), String> {
        let config = &self.sources.config;
        let known = self.shared.knowledge().learned.clone();
        if let Some((_, capabilities, person)) = known.filter(|(of, ..)| of == config) {
            return Ok((capabilities, person));
        }
        let version = if config.is_none() { self.version() } else { None };
        let (agent, person) = match version {
            Some(agent) => (agent, Person::default()),
            None => self.ask()?,
        };
        let learned = (Capabilities::of(&agent)?, Arc::new(person));
        self.shared.knowledge().learned = Some((config.clone(), learned.0, Arc::clone(&learned.1)));
        Ok(learned)
    }

    /// What `codex --version` prints, in the form of a user agent. `None`: nothing of the kind.
    fn version(&self) -> Option<String> {
        let args = ["--version".to_owned()];
        let printed =
            run_once(&self.launch(&args, self.home.dir()), &self.shared.starting, VERSION.0, VERSION.1).ok()?;
        let agent = String::from_utf8(printed).ok()?.trim().replace(' ', "/");
        Capabilities::of(&agent).is_ok_and(|found| found.version.is_some()).then_some(agent)
    }

    /// Has codex say what it is and read the configuration, on a home that holds nothing but a link to it.
    fn ask(&self) -> Result<(String, Person), String> {
        let (file, home) = (self.shared.config.codex_home.path.join("config.toml"), self.home.dir().join("reader"));
        let exists = self.sources.config.is_some();
        let linked = fs::create_dir_all(home.join("sqlite"))
            .and_then(|()| if exists { link(&file, &home.join("config.toml")) } else { Ok(()) });
        linked.map_err(|e| format!("config.toml cannot be linked: {e}"))?;
        let args = Keys::new("read-only", &home.join("sqlite")).arguments();
        // Its answer holds secrets.
        let connected = self.connect(&self.launch(&args, &home), &[], false, |_| {});
        let (connection, agent) = connected.map_err(|failure| failure.words)?;
        let deadline = Deadline::after(names::APP_SERVER_START, self.shared.config.app_server_start);
        let result = exists.then(|| connection.call("config/read", json!({"includeLayers": false}), &deadline));
        if connection.router.closed().is_none() {
            // It has only read, so nothing is lost; by itself it takes 50 ms to end.
            connection.group.kill();
        }
        let last_words = connection.end();
        let person = match result {
            None => Person::default(),
            Some(Ok(result)) => inherit::read(&result)?,
            Some(Err(CallError::Refused(error))) if error.is_unknown_method() => {
                let text = fs::read_to_string(file).map_err(|e| format!("config.toml cannot be read: {e}"))?;
                inherit::read_text(&text)?
            }
            Some(Err(error)) => {
                let words = self.presentable(&error, &last_words);
                return Err(format!("codex does not take config.toml: {words}"));
            }
        };
        Ok((agent, person))
    }

    /// What went wrong and what codex complained of last, without the place of its home, which is another one each time,
    /// and without what clients are not told.
    fn presentable(&self, error: impl Display, last_words: &[String]) -> String {
        let complaint = last_words.iter().skip_while(|line| !line.trim_start().starts_with("Error"));
        let complaint = complaint.take_while(|line| !line.trim_start().starts_with("Stack backtrace"));
        let words = complaint.fold(error.to_string(), |words, line| format!("{words}\n{line}"));
        let dirs = [self.home.dir(), &self.shared.config.codex_home.path];
        for_clients(&dirs.iter().fold(words, |words, dir| words.replace(&*dir.to_string_lossy(), "")))
    }

    /// The derived catalog, kept beside the homes until codex or, where it lists by account, the login changes.
    fn catalog(&self, inherited: &Inherited, keep_instructions: bool) -> Option<PathBuf> {
        let bundled = !(inherited.builtin && self.sources.auth.is_some());
        let mut hasher = DefaultHasher::new();
        let account = if bundled { None } else { Some((&self.sources.auth, &inherited.config)) };
        let of = (&self.binary.path, &self.sources.binary_stamp, account, keep_instructions, env!("CARGO_PKG_VERSION"));
        of.hash(&mut hasher);
        let kept = self.base.file(&format!("catalog-{:016x}.json", hasher.finish()));
        let own = self.home.dir().join("catalog.json");
        // A machine that lost its power may have kept it in part.
        let read = fs::read(&kept).ok().filter(|json| serde_json::from_slice::<IgnoredAny>(json).is_ok());
        if read.is_some_and(|json| write_private(&own, &json).is_ok()) {
            return Some(own);
        }
        let make = |bundled| {
            let args = catalog::arguments(bundled, &self.home.sqlite());
            catalog::make(&self.launch(&args, self.home.dir()), &self.shared.starting, keep_instructions)
        };
        let made = make(bundled).or_else(|words| if bundled { Err(words) } else { make(true) });
        let written = made.and_then(|catalog| {
            write_private(&own, &catalog).map_err(|e| e.to_string())?;
            self.base.forget_files("catalog-");
            // Another proxy may do the same right now; without a kept one the next start takes a little longer.
            write_private(&kept, &catalog).unwrap_or_else(|e| log::debug!("the catalog is not kept: {e}"));
            Ok(own)
        });
        let without = "codex's own catalog is used, with the tools and texts that it adds";
        written.inspect_err(|words| log::warn!("`codex debug models` {words}: {without}")).ok()
    }

    /// Starts an app-server and shakes hands with it; returns what it calls itself.
    fn connect(
        &self,
        launch: &Launch<'_>,
        muted: &[String],
        debug: bool,
        on_end: impl FnOnce(Cause) + Send + 'static,
    ) -> Result<(Arc<Connection>, String), Unconnected> {
        let config = &self.shared.config;
        let deadline = Deadline::after(names::APP_SERVER_START, config.app_server_start);
        let failed = |e: io::Error| Unconnected { words: format!("codex cannot be started: {e}"), key: None };
        let started = process::start(launch, &self.shared.starting).map_err(failed)?;
        let connection = Connection::open(started, debug, on_end).map_err(failed)?;
        let params = json!({
            "clientInfo": {"name": "codex-completions", "title": "codex-completions", "version": env!("CARGO_PKG_VERSION")},
            "capabilities": {"experimentalApi": true, "optOutNotificationMethods": muted},
        });
        let reply =
            connection.call("initialize", params, &deadline).map_err(|error| error.to_string()).and_then(|reply| {
                let unknown = |e| format!("codex answered initialize in an unknown form: {e}");
                serde_json::from_str::<Value>(&reply).map_err(unknown)
            });
        match reply {
            Ok(reply) => {
                connection.notify("initialized");
                Ok((connection, reply["userAgent"].as_str().unwrap_or_default().to_owned()))
            }
            Err(words) => {
                // 0.104 may not come to its complaint about a key before its stdin is closed.
                let last_words = connection.end();
                let key = profile::refused_key(&last_words);
                Err(Unconnected { words: self.presentable(words, &last_words), key })
            }
        }
    }

    /// The models that can be asked for; asked again only where that is quick.
    fn models(&self, connection: &Connection, capabilities: &Capabilities, inherited: &Inherited) -> Models {
        let slow = capabilities.has(Feature::SlowModelList);
        let known = self.shared.knowledge().models.clone();
        if let Some((_, models)) = known.filter(|(of, _)| slow && *of == self.sources) {
            return models;
        }
        let models = models(connection, inherited, &Deadline::after(names::APP_SERVER_START, ASK_MODELS));
        self.shared.knowledge().models = slow.then(|| (self.sources.clone(), models.clone()));
        models
    }
}

/// Why turns would fail for want of credentials, if that is certain.
fn unusable(connection: &Connection, env_key: Option<&str>, deadline: &Deadline) -> Option<String> {
    if let Some(name) = env_key.filter(|name| std::env::var_os(name).is_none_or(|value| value.is_empty())) {
        return Some(format!(
            "the environment variable {name}, which holds the provider's key, is not set: set it and start this program again"
        ));
    }
    // With a ChatGPT login `account/read` waits for the network (0.169), up to seconds; this says the same without it.
    let status = connection.call("getAuthStatus", json!({"includeToken": false, "refreshToken": false}), deadline);
    let reply = status.or_else(|_| connection.call("account/read", json!({}), deadline)).ok()?;
    let reply: Value = serde_json::from_str(&reply).ok()?;
    (reply["requiresOpenaiAuth"] == true && reply["account"].is_null() && reply["authMethod"].is_null())
        .then(|| "codex is not logged in: run `codex login`, or set OPENAI_API_KEY".to_owned())
}

fn models(connection: &Connection, inherited: &Inherited, deadline: &Deadline) -> Models {
    let reply = connection.call("model/list", json!({}), deadline).ok();
    let reply: Value = reply.and_then(|reply| serde_json::from_str(&reply).ok()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entries = reply["data"].as_array().or(reply["items"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let default = entries.iter().find(|entry| entry["isDefault"] == true).or(entries.first());
    let default = default.and_then(|entry| text(&entry["id"]));
    let efforts = |entry: &Value| {
        let efforts = entry["supportedReasoningEfforts"].as_array().into_iter().flatten();
        efforts.filter_map(|effort| text(&effort["reasoningEffort"])).collect()
    };
    let model = |entry: &Value| Some(Model { id: text(&entry["id"])?, efforts: efforts(entry) });
    let listed: Vec<Model> = entries.iter().filter_map(model).collect();
    Models { default: inherited.model.clone().or(default), open: inherited.open || listed.is_empty(), listed }
}
