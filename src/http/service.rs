//! What each route answers. Everything here is about HTTP; turns are served in `serve_turn`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::route::Route;
use super::{Exchange, Method, Response, Service, cors};
use crate::api::error::ApiError;
use crate::api::models::Names;
use crate::api::responses::store::{Owner, Store, not_found};
use crate::api::usage::Spent;
use crate::api::{ApiRequest, chat, completions, responses};
use crate::backend::supervisor::{CodexStatus, Status, Supervisor};
use crate::config::{Config, names};
use crate::deadline::Deadline;
use crate::keys;
use crate::metrics::Metrics;
use crate::permits::Permits;
use crate::turn::Models;

/// How long the supervisor's thread may stand still before `/livez` fails.
const STILL: Duration = Duration::from_secs(30);

/// The application: settings and the parts that serve requests.
pub struct App {
    pub(super) config: Arc<Config>,
    pub(super) supervisor: Supervisor,
    pub(super) permits: Permits,
    store: Mutex<Store>,
    metrics: Metrics,
    began: Instant,
}

/// What the log says about a request when it is over.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The model by the client's name.
    pub(super) model: Option<String>,
    /// Codex's id of the conversation.
    pub(super) thread: Option<String>,
    /// When the model's first text, reasoning or call of a tool came.
    pub(super) first: Option<Instant>,
    /// What it cost.
    pub(super) tokens: Option<Spent>,
    /// Why it ended.
    pub(super) end: String,
}

impl Service for App {
    fn serve(&self, exchange: &mut Exchange<'_>) {
        exchange.add_headers(cors::headers(&self.config, exchange.head()));
        let mut record = Record::default();
        let answered = match self.dispatch(exchange, &mut record) {
            Ok(response) => response.map_or(Ok(()), |response| exchange.respond(response)),
            Err(error) if exchange.status.is_some() || error.code == Some("client_gone") => {
                Err(std::io::Error::other(error.message))
            }
            Err(error) => {
                if record.end.is_empty() {
                    record.end = error.code.unwrap_or(error.kind).to_owned();
                }
                exchange.error(&error)
            }
        };
        if let Err(error) = answered {
            record.end = format!("client gone ({error})");
        }
        self.note(exchange, &record);
    }
}

impl App {
    /// Nothing served yet.
    pub fn new(config: Arc<Config>, supervisor: Supervisor) -> Self {
        let hours = Duration::from_secs(config.response_store_hours.saturating_mul(3600));
        let megabytes = usize::try_from(config.response_store_mb).unwrap_or(usize::MAX);
        Self {
            permits: Permits::new(config.max_turns),
            store: Mutex::new(Store::new(megabytes.saturating_mul(1 << 20), hours)),
            metrics: Metrics::default(),
            began: Instant::now(),
            config,
            supervisor,
        }
    }

    /// The answer; `None` where it is out already.
    fn dispatch(&self, exchange: &mut Exchange<'_>, record: &mut Record) -> Result<Option<Response>, ApiError> {
        let head = exchange.head();
        if let Some(answer) = cors::preflight(&self.config, head) {
            return Ok(Some(answer));
        }
        let route = match Route::find(&head.method, &head.path) {
            Ok(route) => route,
            Err(response) => return Ok(Some(response)),
        };
        let key = keys::accept(&self.config.keys, head.header("authorization"), head.header("x-api-key"));
        if key.is_none() && route.needs_key() {
            return Err(ApiError::wrong_key());
        }
        if self.config.keys.is_empty() && route.needs_key() && !exchange.is_unix() {
            cors::keep_pages_out(&self.config, head)?;
        }
        let owner = Owner(key.unwrap_or(0));
        let answer = match route {
            Route::Healthz => Response::json(200, r#"{"status":"ok"}"#),
            Route::Livez => self.livez(),
            Route::Readyz => self.readyz(),
            Route::Metrics => self.page_of_metrics(),
            Route::Models => Response::json(200, self.names(&*self.models(exchange)?).list()),
            Route::Model(id) => Response::json(200, self.names(&*self.models(exchange)?).get(&id)?),
            Route::ChatCompletions => return self.turn_of(exchange, record, owner, chat::parse),
            Route::Completions => {
                return self.turn_of(exchange, record, owner, |body, _| completions::parse(body));
            }
            Route::Responses => {
                let can_store = self.config.response_store_mb > 0;
                return self.turn_of(exchange, record, owner, |body, show_reasoning| {
                    let find = |id: &str| self.store().get(owner, id, self.clock());
                    let max_bytes = self.config.max_body_bytes;
                    let mut stored = responses::request::Stored { find: &find, max_bytes, taken: 0 };
                    responses::request::parse(body, show_reasoning, can_store, &mut stored)
                });
            }
            Route::Response(id) if head.method == Method::Delete => {
                Response::json(200, self.store().delete(owner, &id, self.clock())?)
            }
            Route::Response(id) => {
                let kept = self.store().get(owner, &id, self.clock());
                Response::json(200, kept.ok_or_else(|| not_found(&id))?.json.as_bytes())
            }
        };
        Ok(Some(answer))
    }

    /// Reads a request of one of the front ends and serves it.
    fn turn_of(
        &self,
        exchange: &mut Exchange<'_>,
        record: &mut Record,
        owner: Owner,
        parse: impl Fn(&[u8], bool) -> Result<ApiRequest, ApiError>,
    ) -> Result<Option<Response>, ApiError> {
        let body = exchange.read_body()?;
        let request = parse(&body, self.config.reasoning)?;
        let share = body.into_share(request.bytes(str::len))?;
        self.serve_turn(exchange, request, share, owner, record).map(|()| None)
    }

    /// The answers that are kept. To be held for a moment only.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock of the store.
    pub(super) fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    /// What names of models mean now.
    pub(super) fn names<'a>(&'a self, models: &'a Models) -> Names<'a> {
        let configured = self.config.codex_model.as_deref();
        Names { models, aliases: &self.config.model_aliases, configured }
    }

    fn models(&self, exchange: &mut Exchange<'_>) -> Result<Arc<Models>, ApiError> {
        let wait = Deadline::after(names::QUEUE, self.config.queue);
        self.supervisor.models(&wait, &exchange.cancel()).map_err(|error| ApiError::from(&error))
    }

    fn livez(&self) -> Response {
        let still = self.supervisor.still_for();
        let (code, status) = if still < STILL { (200, "ok") } else { (503, "wedged") };
        health(code, status, format!("the supervisor moved {} s ago", still.as_secs()), None)
    }

    fn readyz(&self) -> Response {
        let Status { ready, reason, codex } = self.supervisor.status();
        let (code, status) = if ready { (200, "ready") } else { (503, "not ready") };
        health(code, status, reason, codex)
    }

    fn page_of_metrics(&self) -> Response {
        let up = f64::from(u8::from(self.supervisor.status().codex.is_some()));
        let now = [
            ("turns_running", "gauge", "Turns that run.", self.permits.in_use() as f64),
            ("turns_waiting", "gauge", "Requests that wait for a turn.", self.permits.waiting() as f64),
            ("app_server_up", "gauge", "Whether an app-server is ready.", up),
            ("app_server_starts_total", "counter", "Starts of an app-server.", self.supervisor.starts() as f64),
        ];
        let page = Response::new(200).header("content-type", "text/plain; version=0.0.4; charset=utf-8");
        page.body(self.metrics.render(&now))
    }

    /// Counts a request and writes its line of the log. Health checks come often and say nothing, so they are left to
    /// `debug`.
    fn note(&self, exchange: &Exchange<'_>, record: &Record) {
        let (head, took) = (exchange.head(), exchange.started.elapsed());
        let route = Route::of(&head.path);
        let first = record.first.map(|first| first.duration_since(exchange.started));
        let usage = record.tokens.map(|spent| spent.usage).unwrap_or_default();
        let name = route.as_ref().map_or("none", |route| route.facts().0);
        self.metrics.count(name, exchange.status.unwrap_or(0), took, first, usage);
        // What a client may choose the length of.
        let short = |text: &str| text.chars().take(100).collect::<String>();
        let none = || "-".to_owned();
        let tokens = record.tokens.map_or_else(none, |Spent { usage, estimated }| {
            let mark = if estimated { "~" } else { "" };
            format!("{mark}{}/{}/{}/{}", usage.input, usage.cached, usage.output, usage.reasoning)
        });
        log::log!(
            if route.is_some_and(|route| !route.needs_key()) { log::Level::Debug } else { log::Level::Info },
            "request={} {} {} status={} model={} thread={} first_ms={} ms={} tokens={tokens} end={}",
            exchange.request_id,
            short(head.method.as_str()),
            short(&head.path),
            exchange.status.map_or_else(none, |status| status.to_string()),
            record.model.as_deref().map_or_else(none, short),
            record.thread.as_deref().unwrap_or("-"),
            first.map_or_else(none, |first| first.as_millis().to_string()),
            took.as_millis(),
            if record.end.is_empty() { "answered" } else { &record.end },
        );
    }
}

fn health(code: u16, status: &'static str, reason: String, codex: Option<CodexStatus>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        reason: String,
        codex: Option<CodexStatus>,
    }
    // Strings and lists of strings always serialise.
    Response::json(code, serde_json::to_string(&Health { status, reason, codex }).unwrap_or_default())
}
