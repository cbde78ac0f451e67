//! How a generation comes to be: a home, what the person's configuration says, a catalog, a process, its version, its
//! login and its models. What a start learns, the next one knows.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::binary::Binary;
use super::connection::{CallError, Connection};
use super::dialect::capabilities::{Capabilities, Feature};
use super::dialect::errors::Refusal;
use super::dialect::{Dialect, catalog, profile};
use super::generation::Generation;
use super::home::{Base, Home, write_private};
use super::inherit::{self, Inherited, Outside, Person};
use super::process::{self, Group, Launch, Starting};
use super::redact::for_clients;
use super::router::Cause;
use super::sources::{Sources, Stamp};
use crate::config::{Config, Profile, names};
use crate::deadline::Deadline;
use crate::turn::{Model, Models};

/// Longest wait for what is asked once at start and is not needed to serve.
const ASK: Duration = Duration::from_secs(3);
/// The same for models: 0.77 – 0.98 spend three seconds on them where the network is out of reach.
const ASK_MODELS: Duration = Duration::from_secs(5);
/// The file with the number that codex gives its installation.
const INSTALLATION: &str = "installation_id";
/// How many keys a codex may refuse before it is given up.
const REFUSALS: usize = 8;

/// What was learned from earlier starts.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// Keys that this binary refused.
    refused: (Option<Stamp>, Vec<String>),
    /// Methods that a codex made from this turned out not to have.
    pub missing: Vec<(Sources, &'static str)>,
    /// What of the lean profile the service refuses.
    pub refusals: Vec<Refusal>,
    /// What this binary is, and what it read of the person's configuration.
    learned: Option<(Sources, Learned)>,
    /// The models that it listed, where it takes its time over them.
    models: Option<(Sources, Models)>,
    /// What has been said once.
    said: Vec<String>,
}

/// What has to be known of a codex before it is started for service.
#[derive(Clone, Debug)]
struct Learned {
    capabilities: Capabilities,
    person: Arc<Person>,
    /// What does not carry over, because this codex does not tell.
    cost: Option<String>,
}

impl Knowledge {
    fn say_once(&mut self, words: &str) {
        if !self.said.iter().any(|said| said == words) {
            log::warn!("{words}");
            self.said.push(words.to_owned());
        }
    }
}

/// Everything that one start needs.
pub struct Start<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The number of the generation.
    pub number: u64,
    /// What it is to be made from.
    pub sources: Sources,
    /// What earlier starts taught.
    pub knowledge: &'a mut Knowledge,
    /// Where the process can be found while it starts.
    pub starting: &'a Starting,
}

impl Start<'_> {
    /// Makes a home, starts codex on it and asks what has to be known. Takes as long as the deadlines allow.
    ///
    /// # Errors
    /// Words for a person.
    pub fn run(mut self, on_end: impl Fn(Cause) + Clone + Send + 'static) -> Result<Generation, String> {
        let began = Instant::now();
        let lean = self.config.profile == Profile::Lean;
        let binary = self.sources.binary.clone()?;
        if binary.launcher {
            self.knowledge.say_once(
                "CODEX_BIN is a script and the native binary behind it was not found: codex may cost more memory",
            );
        }
        if self.knowledge.refused.0 != self.sources.binary_stamp {
            self.knowledge.refused = (self.sources.binary_stamp.clone(), Vec::new());
        }
        let base = Base::open(&self.config.codex_home.path)?;
        let Learned { capabilities, person, cost } = self.learn(&base, &binary)?;
        let inherited = person.inherit(&Outside {
            model: self.config.codex_model.as_deref(),
            provider: self.config.force_provider.as_deref(),
            api_key: self.config.openai_api_key.as_ref(),
            logged_in: self.sources.auth.is_some(),
        });
        let home = base.create_home()?;
        let bare = lean && !capabilities.has(Feature::SkillSettings);
        self.furnish(&base, &home, &inherited, bare)?;
        let mut costs: Vec<String> = base.temporary.iter().chain(&inherited.warnings).chain(&cost).cloned().collect();
        if lean && self.config.codex_home.path.join(".env").exists() {
            costs.push(
                "CODEX_HOME has a .env, which is not carried over: put the variables that a provider needs \
                 into the environment of this program"
                    .to_owned(),
            );
        }
        let codex_home = if lean { home.dir() } else { &self.config.codex_home.path };
        let derived =
            lean && capabilities.has(Feature::Catalog) && !self.knowledge.refusals.contains(&Refusal::Catalog);
        let catalog = if derived { self.catalog(&base, &home, &binary, &inherited) } else { None };
        let provider = if lean {
            inherited.provider.as_deref().map(|provider| (provider, None))
        } else if inherited.definition.is_some() {
            inherited.provider.as_deref().map(|provider| (provider, inherited.definition.as_ref()))
        } else {
            self.config.force_provider.as_deref().map(|provider| (provider, None))
        };
        let sqlite = home.sqlite();
        let overrides = profile::Overrides {
            lean: lean.then_some(&capabilities),
            sandbox: self.config.sandbox.as_str(),
            model: self.config.codex_model.as_deref(),
            provider,
            sqlite: &sqlite,
            catalog: catalog.as_deref(),
            refused: &[],
        };
        let (connection, agent) = loop {
            let args = match capabilities.has(Feature::StartConfig) {
                true => profile::arguments(&profile::Overrides { refused: &self.knowledge.refused.1, ..overrides }),
                false => vec!["app-server".to_owned()],
            };
            log::info!("spawning (app-server): {} {}", binary.path.display(), args.join(" "));
            let launch = LaunchIn { bare, ..self.launch(&binary, &args, codex_home, &home) };
            match self.connect(
                &launch,
                capabilities.muted(self.config.protocol),
                self.config.debug_app_server,
                on_end.clone(),
            ) {
                Ok(connected) => break connected,
                Err(Unconnected::Refused(key)) if self.knowledge.refused.1.len() < REFUSALS => {
                    log::info!("this codex does not take `{key}`; starting without it");
                    self.knowledge.refused.1.push(key);
                }
                Err(Unconnected::Refused(key)) => {
                    return Err(format!("codex refuses too many settings, such as `{key}`"));
                }
                Err(Unconnected::Failed(words)) => return Err(self.presentable(&home, &words)),
            }
        };
        let api_key = inherited.env_key.as_deref() == Some(names::OPENAI_API_KEY);
        let refused = &self.knowledge.refused.1;
        let thread_config = profile::thread_config(&profile::Overrides { refused, ..overrides }, api_key);
        let generation = self.settle(connection, &agent, inherited, home, costs, thread_config);
        self.starting.clear();
        let generation = generation?;
        let kept = base.file(INSTALLATION);
        if lean && !kept.exists() && !self.config.codex_home.path.join(INSTALLATION).exists() {
            // Else each codex of a home without one would pass for another installation.
            let made = fs::read(generation.home.dir().join(INSTALLATION)).and_then(|id| write_private(&kept, &id));
            made.unwrap_or_else(|e| log::debug!("no {INSTALLATION} is kept: {e}"));
        }
        let version =
            generation.capabilities.version.map_or("of unknown version".to_owned(), |version| version.to_string());
        log::info!(
            "app-server {} is ready after {} ms: codex {version}, protocol {}, prompt {}, pid {}",
            generation.number,
            began.elapsed().as_millis(),
            generation.dialect.name(),
            generation.prompt(),
            generation.connection.group.pid(),
        );
        generation.capabilities.remark().iter().for_each(|remark| self.knowledge.say_once(remark));
        generation.degraded().iter().for_each(|line| self.knowledge.say_once(line));
        Ok(generation)
    }

    fn launch<'l>(&self, binary: &'l Binary, args: &'l [String], codex_home: &'l Path, home: &Home) -> LaunchIn<'l> {
        let tag = format!("app-server {}", self.number);
        LaunchIn { binary, args, codex_home, bare: false, cwd: home.scratch(), tag }
    }

    /// Puts into a home what codex needs there; into a `bare` one, what keeps it from bringing its skills.
    fn furnish(&self, base: &Base, home: &Home, inherited: &Inherited, bare: bool) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("a home for codex cannot be furnished: {e}");
        let person = &self.config.codex_home.path;
        home.link(person, "auth.json").map_err(failed)?;
        // Sent upstream; made anew where it is missing.
        if let Ok(id) = fs::read(person.join(INSTALLATION)).or_else(|_| fs::read(base.file(INSTALLATION))) {
            write_private(&home.dir().join(INSTALLATION), &id).map_err(failed)?;
        }
        if bare {
            fs::create_dir(home.dir().join("skills")).map_err(failed)?;
            write_private(&home.dir().join("skills/.system"), b"").map_err(failed)?;
        }
        write_private(&home.dir().join("config.toml"), inherited.config.as_bytes()).map_err(failed)
    }

    /// What codex this is and what the person's configuration says, as codex reads it on a home that holds nothing but a
    /// link to it.
    fn learn(&mut self, base: &Base, binary: &Binary) -> Result<Learned, String> {
        if let Some((sources, learned)) = &self.knowledge.learned
            && (&sources.config, &sources.binary_stamp) == (&self.sources.config, &self.sources.binary_stamp)
        {
            return Ok(learned.clone());
        }
        let home = base.create_home()?;
        let file = self.config.codex_home.path.join("config.toml");
        if self.sources.config.is_some() {
            let linked = home.link(&self.config.codex_home.path, "config.toml");
            linked.map_err(|e| format!("config.toml cannot be linked: {e}"))?;
        }
        let args = profile::quiet_arguments(&home.sqlite());
        let launch = self.launch(binary, &args, home.dir(), &home);
        // Its answer holds secrets.
        let connected = self.connect(&launch, &[], false, |_| {});
        let (connection, agent) = connected.map_err(|e| match e {
            Unconnected::Failed(words) => self.presentable(&home, &words),
            Unconnected::Refused(key) => format!("codex refuses `{key}` of config.toml"),
        })?;
        let deadline = Deadline::after(names::APP_SERVER_START, self.config.app_server_start);
        let asked = self.sources.config.as_ref();
        let result = asked.map(|_| connection.call("config/read", json!({"includeLayers": false}), &deadline));
        end(&connection);
        self.starting.clear();
        let capabilities = Capabilities::of(&agent)?;
        let mut cost = None;
        let person = match result {
            None => Ok(Person::default()),
            Some(Ok(result)) => Ok(inherit::read(&result)?),
            Some(Err(CallError::Refused(error))) if error.is_unknown_method() => {
                cost = Some(
                    "this codex does not tell what config.toml says: of it, model and providers carry over".to_owned(),
                );
                let text = fs::read_to_string(file).map_err(|e| format!("config.toml cannot be read: {e}"))?;
                Ok(inherit::read_text(&text)?)
            }
            Some(Err(CallError::Refused(error))) => Err(error.message),
            Some(Err(CallError::Closed(cause))) => Err(explain(&connection.group, &cause)),
            Some(Err(CallError::Deadline(words))) => return Err(words),
            Some(Err(CallError::Cancelled(cause))) => return Err(cause.error().message),
        };
        let refused = |words: String| format!("codex does not take config.toml: {}", self.presentable(&home, &words));
        let learned = Learned { capabilities, person: Arc::new(person.map_err(refused)?), cost };
        self.knowledge.learned = Some((self.sources.clone(), learned.clone()));
        Ok(learned)
    }

    /// Words of codex without the place of its home, which is another one each time, and without what clients are not told.
    fn presentable(&self, home: &Home, words: &str) -> String {
        let dirs = [home.dir(), &self.config.codex_home.path];
        let words =
            dirs.iter().fold(words.to_owned(), |words, dir| words.replace(&*dir.to_string_lossy(), "CODEX_HOME"));
        for_clients(&words)
    }

    /// The derived catalog, kept beside the homes until codex or, where it lists by account, the login changes.
    fn catalog(&mut self, base: &Base, home: &Home, binary: &Binary, inherited: &Inherited) -> Option<PathBuf> {
        let keep = self.knowledge.refusals.contains(&Refusal::Instructions);
        let bundled = !(inherited.builtin && self.sources.auth.is_some());
        let mut hasher = DefaultHasher::new();
        let account = if bundled { None } else { Some((&self.sources.auth, &inherited.config)) };
        (&binary.path, &self.sources.binary_stamp, account, keep, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let kept = base.file(&format!("catalog-{:016x}.json", hasher.finish()));
        let own = home.dir().join("catalog.json");
        // A machine that lost its power may have kept it in part.
        let read = fs::read(&kept).ok().filter(|json| serde_json::from_slice::<IgnoredAny>(json).is_ok());
        if read.is_some_and(|json| write_private(&own, &json).is_ok()) {
            return Some(own);
        }
        let make = |bundled| {
            let args = catalog::arguments(bundled, &home.sqlite());
            catalog::make(&self.launch(binary, &args, home.dir(), home).as_launch(), self.starting, keep)
        };
        let made = make(bundled).or_else(|words| if bundled { Err(words) } else { make(true) });
        let written = made.and_then(|catalog| {
            write_private(&own, &catalog).map_err(|e| e.to_string())?;
            base.forget_files("catalog-");
            // Another proxy may do the same right now; without a kept one the next start takes a little longer.
            if let Err(e) = write_private(&kept, &catalog) {
                log::debug!("the catalog is not kept: {e}");
            }
            Ok(())
        });
        match written {
            Ok(()) => Some(own),
            Err(words) => {
                log::warn!(
                    "`codex debug models` {words}: codex's own catalog is used, with the tools and texts that it adds"
                );
                None
            }
        }
    }

    fn connect(
        &self,
        launch: &LaunchIn<'_>,
        muted: &[&str],
        debug: bool,
        on_end: impl FnOnce(Cause) + Send + 'static,
    ) -> Result<(Arc<Connection>, String), Unconnected> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Reply {
            #[serde(default)]
            user_agent: String,
        }
        let failed = |words: String| Unconnected::Failed(words);
        let deadline = Deadline::after(names::APP_SERVER_START, self.config.app_server_start);
        let started =
            process::start(&launch.as_launch()).map_err(|e| failed(format!("codex cannot be started: {e}")))?;
        self.starting.set(&started.group);
        let connection =
            Connection::open(started, debug, on_end).map_err(|e| failed(format!("no thread for codex: {e}")))?;
        let params = json!({
            "clientInfo": {"name": "codex-completions", "title": "codex-completions", "version": env!("CARGO_PKG_VERSION")},
            "capabilities": {"experimentalApi": true, "optOutNotificationMethods": muted},
        });
        let words = match connection.call("initialize", params, &deadline) {
            Ok(result) => match serde_json::from_str::<Reply>(&result) {
                Ok(reply) => {
                    connection.notify("initialized");
                    return Ok((connection, reply.user_agent));
                }
                Err(e) => format!("codex answered initialize in an unknown form: {e}"),
            },
            Err(CallError::Closed(cause)) => {
                let words = connection.group.last_words();
                self.starting.clear();
                return Err(match profile::refused_key(&words) {
                    Some(key) => Unconnected::Refused(key),
                    None => failed(explain(&connection.group, &cause)),
                });
            }
            Err(CallError::Refused(error)) => format!("codex refused initialize: {}", error.message),
            // 0.104 may not come to its complaint about a key before its stdin is closed.
            Err(CallError::Deadline(words)) => {
                connection.close_stdin();
                if let Some(key) = profile::refused_key(&connection.group.last_words()) {
                    return Err(Unconnected::Refused(key));
                }
                words
            }
            Err(CallError::Cancelled(cause)) => cause.error().message,
        };
        connection.group.kill();
        self.starting.clear();
        Err(failed(words))
    }

    /// Asks what has to be known before the first turn. What cannot be answered stays open: it is no failure.
    fn settle(
        &mut self,
        connection: Arc<Connection>,
        agent: &str,
        inherited: Inherited,
        home: Home,
        costs: Vec<String>,
        thread_config: Map<String, Value>,
    ) -> Result<Generation, String> {
        let lean = self.config.profile == Profile::Lean;
        let deadline = Deadline::after(names::APP_SERVER_START, ASK);
        let chosen = Capabilities::of(agent).and_then(|mut capabilities| {
            let missing = self.knowledge.missing.iter();
            let missing = missing.filter(|(sources, _)| sources.binary_stamp == self.sources.binary_stamp);
            missing.for_each(|(_, method)| capabilities.correct(method));
            let (dialect, joined) = capabilities.choose(self.config.protocol, self.config.prompt_mode)?;
            Ok((capabilities, dialect, joined))
        });
        let (capabilities, dialect, joined) = chosen.inspect_err(|_| end(&connection))?;
        if dialect == Dialect::V1 {
            connection.router.route_by_conversation();
        }
        let unusable = unusable(&connection, inherited.env_key.as_deref(), &deadline);
        let models = self.models(&connection, &capabilities, &inherited);
        let threads = dialect == Dialect::V1 || !capabilities.has(Feature::StartConfig);
        let base = lean
            .then(|| self.config.base_instructions.clone())
            .filter(|_| !self.knowledge.refusals.contains(&Refusal::Instructions));
        Ok(Generation {
            number: self.number,
            dialect,
            capabilities,
            model: models.default.clone(),
            models: Arc::new(models),
            unusable,
            sources: self.sources.clone(),
            turns: AtomicUsize::new(0),
            base_instructions: base,
            sandbox: self.config.sandbox.as_str(),
            cwd: home.scratch().to_string_lossy().into_owned(),
            lean,
            joined,
            thread_config: threads.then_some(thread_config),
            costs,
            connection,
            home,
        })
    }

    /// The models that can be asked for; asked again only where that is quick.
    fn models(&mut self, connection: &Connection, capabilities: &Capabilities, inherited: &Inherited) -> Models {
        let slow = capabilities.has(Feature::SlowModelList);
        if let Some((sources, models)) = self.knowledge.models.as_ref().filter(|_| slow)
            && *sources == self.sources
        {
            return models.clone();
        }
        let models = models(connection, inherited, &Deadline::after(names::APP_SERVER_START, ASK_MODELS));
        self.knowledge.models = slow.then(|| (self.sources.clone(), models.clone()));
        models
    }
}

/// A [`Launch`] that owns its working directory.
struct LaunchIn<'a> {
    binary: &'a Binary,
    args: &'a [String],
    codex_home: &'a Path,
    /// Whether the person's home directory is kept from it too.
    bare: bool,
    cwd: PathBuf,
    tag: String,
}

impl LaunchIn<'_> {
    fn as_launch(&self) -> Launch<'_> {
        Launch {
            binary: self.binary,
            args: self.args,
            home: self.codex_home,
            user_home: self.bare.then_some(self.codex_home),
            cwd: &self.cwd,
            tag: self.tag.clone(),
        }
    }
}

enum Unconnected {
    Refused(String),
    Failed(String),
}

/// Ends a process that was only asked something.
fn end(connection: &Connection) {
    connection.close_stdin();
    connection.group.end();
}

/// Why it ended, with what it said last.
fn explain(group: &Group, cause: &Cause) -> String {
    let words = group.last_words();
    let complaint: Vec<&str> = words
        .iter()
        .map(|line| line.trim())
        .skip_while(|line| !line.starts_with("Error"))
        .take_while(|line| !line.starts_with("Stack backtrace"))
        .collect();
    if complaint.is_empty() { cause.to_string() } else { format!("{cause}: {}", complaint.join(" ")) }
}

/// Why turns would fail for want of credentials, if that is certain.
fn unusable(connection: &Connection, env_key: Option<&str>, deadline: &Deadline) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Reply {
        #[serde(default, alias = "authMethod")]
        account: Option<serde_json::Value>,
        #[serde(default)]
        requires_openai_auth: bool,
    }
    if let Some(name) = env_key.filter(|name| std::env::var_os(name).is_none_or(|value| value.is_empty())) {
        return Some(format!(
            "the environment variable {name}, which holds the provider's key, is not set: set it and start this program again"
        ));
    }
    // With a ChatGPT login `account/read` waits for the network (0.169), up to seconds; this says the same without it.
    let status = connection.call("getAuthStatus", json!({"includeToken": false, "refreshToken": false}), deadline);
    let reply = status.or_else(|_| connection.call("account/read", json!({}), deadline)).ok()?;
    let reply: Reply = serde_json::from_str(&reply).ok()?;
    (reply.requires_openai_auth && reply.account.is_none())
        .then(|| "codex is not logged in: run `codex login`, or set OPENAI_API_KEY".to_owned())
}

fn models(connection: &Connection, inherited: &Inherited, deadline: &Deadline) -> Models {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(alias = "items")]
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        id: String,
        #[serde(default)]
        is_default: bool,
        #[serde(default)]
        supported_reasoning_efforts: Vec<Effort>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Effort {
        reasoning_effort: String,
    }
    let reply = connection.call("model/list", json!({}), deadline).ok();
    let reply: Option<Reply> = reply.and_then(|reply| serde_json::from_str(&reply).ok());
    let entries = reply.map(|reply| reply.data).unwrap_or_default();
    let default = entries.iter().find(|entry| entry.is_default).or(entries.first()).map(|entry| entry.id.clone());
    let open = inherited.open || entries.is_empty();
    let listed = entries
        .into_iter()
        .map(|entry| Model {
            id: entry.id,
            efforts: entry.supported_reasoning_efforts.into_iter().map(|effort| effort.reasoning_effort).collect(),
        })
        .collect();
    Models { default: inherited.model.clone().or(default), listed, open }
}
