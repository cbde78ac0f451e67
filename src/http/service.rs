//! What each route answers. Everything here is about HTTP; turns are served in `serve_turn`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cors::Cors;
use super::route::Route;
use super::{Exchange, Method, Response, Service};
use crate::api::error::ApiError;
use crate::api::models::Names;
use crate::api::responses::store::{Owner, Store, not_found};
use crate::api::usage::Spent;
use crate::api::{ApiRequest, chat, completions, responses};
use crate::backend::supervisor::Supervisor;
use crate::config::{Config, names};
use crate::deadline::Deadline;
use crate::keys::Keys;
use crate::metrics::{Gauges, Metrics};
use crate::permits::Permits;
use crate::turn::Aliases;
use crate::turn::Models;

/// How long the supervisor's thread may stand still before `/livez` fails.
const STILL: Duration = Duration::from_secs(30);

/// The application: settings and the parts that serve requests.
pub struct App {
    /// The settings.
    pub config: Arc<Config>,
    /// Which codex serves.
    pub supervisor: Supervisor,
    /// How many turns run at once.
    pub permits: Permits,
    /// Who may ask.
    pub keys: Keys,
    /// Further names of models.
    pub aliases: Aliases,
    /// Which browsers may read answers.
    pub cors: Cors,
    /// Answers of `/v1/responses` by id.
    pub store: Mutex<Store>,
    /// What was served.
    pub metrics: Metrics,
    /// When the program started.
    pub began: Instant,
}

/// What the log says about a request when it is over.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The model by the client's name.
    pub(super) model: Option<String>,
    /// Codex's id of the conversation.
    pub(super) thread: Option<String>,
    /// When the first byte of an answer of the model went out.
    pub(super) first: Option<Instant>,
    /// What it cost.
    pub(super) tokens: Option<Spent>,
    /// Why it ended.
    pub(super) end: String,
}

impl Service for App {
    fn serve(&self, exchange: &mut Exchange<'_>) {
        let mut record = Record::default();
        let answered = match self.dispatch(exchange, &mut record) {
            Ok(answered) => answered,
            Err(response) => exchange.respond(response),
        };
        if let Err(e) = answered {
            record.end = format!("client gone ({e})");
        }
        self.count(exchange, &record);
        log_request(exchange, &record);
    }
}

impl App {
    fn dispatch(&self, exchange: &mut Exchange<'_>, record: &mut Record) -> Result<std::io::Result<()>, Response> {
        exchange.add_headers(self.cors.headers(exchange.head()));
        if let Some(answer) = self.cors.preflight(exchange.head()) {
            return Err(answer);
        }
        let route = Route::find(exchange.head())?;
        let owner = match exchange.head().accepted_by(&self.keys) {
            None if route.needs_key() => return Err(Response::error(&ApiError::wrong_key())),
            number => Owner(number.unwrap_or(0)),
        };
        match route {
            Route::Healthz => Ok(exchange.respond(Response::json(200, r#"{"status":"ok"}"#))),
            Route::Livez => Ok(exchange.respond(self.livez())),
            Route::Readyz => Ok(exchange.respond(self.readyz())),
            Route::Metrics => {
                let gauges = Gauges {
                    turns_running: self.permits.in_use(),
                    turns_waiting: self.permits.waiting(),
                    app_server_up: self.supervisor.status().codex.is_some(),
                    app_server_starts: self.supervisor.starts(),
                };
                let page = Response::new(200).header("content-type", "text/plain; version=0.0.4; charset=utf-8");
                Ok(exchange.respond(page.body(self.metrics.render(gauges))))
            }
            Route::Models => {
                let models = self.models(exchange)?;
                Ok(exchange.respond(Response::json(200, self.names(&models).list())))
            }
            Route::Model(id) => {
                let models = self.models(exchange)?;
                let entry = self.names(&models).get(&id).map_err(|error| Response::error(&error))?;
                Ok(exchange.respond(Response::json(200, entry)))
            }
            Route::ChatCompletions => self.turn_of(exchange, record, owner, chat::request::parse),
            Route::Completions => self.turn_of(exchange, record, owner, |body, _| completions::parse(body)),
            Route::Responses => {
                let can_store = self.config.response_store_mb > 0;
                self.turn_of(exchange, record, owner, |body, show_reasoning| {
                    responses::request::parse(body, show_reasoning, can_store, &|id, index| {
                        self.store().get(owner, id, self.clock())?.items(index)
                    })
                })
            }
            Route::Response(id) => {
                let answer = if exchange.head().method == Method::Delete {
                    self.store().delete(owner, &id, self.clock())
                } else {
                    let mut store = self.store();
                    store.get(owner, &id, self.clock()).map(|record| record.json.clone()).ok_or_else(|| not_found(&id))
                };
                Ok(exchange.respond(Response::json(200, answer.map_err(|error| Response::error(&error))?)))
            }
        }
    }

    fn count(&self, exchange: &Exchange<'_>, record: &Record) {
        let route = Route::of(&exchange.head().path).map_or("none", |route| route.name());
        let first = record.first.map(|first| first.duration_since(exchange.started()));
        let usage = record.tokens.map(|spent| spent.usage).unwrap_or_default();
        self.metrics.count(route, exchange.status().unwrap_or(0), exchange.started().elapsed(), first, usage);
    }

    /// Reads a request of one of the front ends and serves it.
    fn turn_of(
        &self,
        exchange: &mut Exchange<'_>,
        record: &mut Record,
        owner: Owner,
        parse: impl Fn(&[u8], bool) -> Result<ApiRequest, ApiError>,
    ) -> Result<std::io::Result<()>, Response> {
        // The body goes before the turn begins: what is parsed is a second copy of it.
        let request = exchange.read_body().and_then(|body| parse(&body, self.config.reasoning));
        let request = request.map_err(|error| Response::error(&error))?;
        Ok(self.serve_turn(exchange, request, owner, record))
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
        Names { models, aliases: &self.aliases, configured: self.config.codex_model.as_deref() }
    }

    fn models(&self, exchange: &mut Exchange<'_>) -> Result<Arc<Models>, Response> {
        let wait = Deadline::after(names::QUEUE, self.config.queue);
        self.supervisor.models(&wait, &exchange.cancel()).map_err(|error| Response::error(&ApiError::from(&error)))
    }

    fn livez(&self) -> Response {
        let still = self.supervisor.still_for();
        if still < STILL {
            return Response::json(200, r#"{"status":"ok"}"#);
        }
        let reason = format!("the supervisor has not moved for {} s", still.as_secs());
        Response::json(503, json(&Health { status: "wedged", reason: &reason, codex: None }))
    }

    fn readyz(&self) -> Response {
        let status = self.supervisor.status();
        let codex = status.codex.as_ref().map(|codex| Codex {
            version: &codex.version,
            dialect: codex.dialect,
            prompt: codex.prompt,
            degraded: &codex.degraded,
        });
        let word = if status.ready { "ready" } else { "not ready" };
        let code = if status.ready { 200 } else { 503 };
        Response::json(code, json(&Health { status: word, reason: &status.reason, codex }))
    }
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    reason: &'a str,
    codex: Option<Codex<'a>>,
}

#[derive(Serialize)]
struct Codex<'a> {
    version: &'a str,
    dialect: &'a str,
    prompt: &'a str,
    degraded: &'a [String],
}

fn json(value: &impl Serialize) -> String {
    // Strings and lists of strings always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

/// One line for each request. Health checks come often and say nothing, so they are left to `debug`.
fn log_request(exchange: &Exchange<'_>, record: &Record) {
    let head = exchange.head();
    // What a client may choose the length of.
    let short = |text: &str| text.chars().take(100).collect::<String>();
    let path = short(&head.path);
    let level = match Route::of(&head.path) {
        Some(route) if !route.needs_key() => log::Level::Debug,
        _ => log::Level::Info,
    };
    let tokens = record.tokens.map_or("-".to_owned(), |Spent { usage, estimated }| {
        let mark = if estimated { "~" } else { "" };
        format!("{mark}{}/{}/{}/{}", usage.input, usage.cached, usage.output, usage.reasoning)
    });
    let since = |at: Instant| at.duration_since(exchange.started()).as_millis();
    log::log!(
        level,
        "request={} {} {path} status={} model={} thread={} first_ms={} ms={} tokens={} end={}",
        exchange.request_id(),
        &head.method,
        exchange.status().map_or("-".to_owned(), |status| status.to_string()),
        record.model.as_deref().map_or("-".to_owned(), short),
        record.thread.as_deref().unwrap_or("-"),
        record.first.map_or("-".to_owned(), |first| since(first).to_string()),
        exchange.started().elapsed().as_millis(),
        tokens,
        if record.end.is_empty() { "answered" } else { &record.end },
    );
}
