//! Which names of models exist and what they stand for.
//!
//! `GET /v1/models` lists what the app-server lists, the configured model and the aliases. Names that merely vary these
//! (`codex-5`, a suffix for the effort, what `*` catches) are not listed but found by id, like every name that a request
//! may use.

use serde_json::Value;

use crate::turn::{Aliases, Models};

use super::Effort;
use super::error::ApiError;
use super::write::brief;

/// Efforts, least first. All but `none` can be suffixes of a model's name.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// Always the default model.
const DEFAULT_NAME: &str = "codex-5";

/// `created` of every model: 2025-01-01. Nobody tells the real ones.
const CREATED: u64 = 1_735_689_600;

/// What names are resolved by.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What the app-server knows.
    pub models: &'a Models,
    /// `PROXY_MODEL_ALIASES`.
    pub aliases: &'a Aliases,
    /// `CODEX_MODEL`.
    pub configured: Option<&'a str>,
}

/// What a request's model and effort come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Codex's name. `None`: codex's default, which it does not tell.
    pub id: Option<String>,
    /// One that the model takes. `None`: the model's default.
    pub effort: Option<String>,
    /// What the answer shows as `model`: the name that was asked for, if any.
    pub name: String,
}

impl Names<'_> {
    /// Resolves what a request asked for. An effort in a field of its own counts more than a suffix; it has to be one
    /// that the model lists, while a suffix goes to the nearest of these.
    ///
    /// # Errors
    /// 404 for a name that is not accepted, 400 for an effort that the model does not list.
    pub fn resolve(&self, asked: Option<&str>, effort: Option<&Effort>) -> Result<Resolved, ApiError> {
        let (id, suffix) = match asked {
            None => (self.default(), None),
            Some(name) => self.find(name).ok_or_else(|| ApiError::model_not_found(name))?,
        };
        let name = asked.or(id).unwrap_or(DEFAULT_NAME).to_owned();
        let listed = self.efforts(id);
        let effort = match (effort, suffix) {
            (Some(effort), _) if listed.is_empty() || listed.contains(&effort.value) => Some(effort.value.clone()),
            (Some(Effort { value, param }), _) => {
                let (listed, got) = (listed.join(", "), brief(value));
                let message = format!("`{param}` of `{}` must be one of {listed}, got `{got}`.", brief(&name));
                return Err(ApiError::invalid(*param, message));
            }
            (None, Some(suffix)) => nearest(suffix, listed).map(str::to_owned),
            (None, None) => None,
        };
        Ok(Resolved { id: id.map(str::to_owned), effort, name })
    }

    /// The JSON of `GET /v1/models`.
    pub fn list(&self) -> String {
        let mut ids: Vec<&str> = self.models.listed.iter().map(|model| model.id.as_str()).collect();
        let aliases = self.aliases.names.iter().map(|(name, _)| name.as_str());
        for id in self.configured.into_iter().chain(self.models.default.as_deref()).chain(aliases) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            ids.push(DEFAULT_NAME);
        }
        let entries: Vec<String> = ids.into_iter().map(entry).collect();
        format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
    }

    /// The JSON of `GET /v1/models/{id}`.
    ///
    /// # Errors
    /// 404 for a name that a request could not use either.
    pub fn get(&self, id: &str) -> Result<String, ApiError> {
        self.find(id).map(|_| entry(id)).ok_or_else(|| ApiError::model_not_found(id))
    }

    fn default(&self) -> Option<&str> {
        self.configured.or(self.models.default.as_deref())
    }

    /// What `name` stands for. `None`: no such model.
    fn find<'n>(&'n self, name: &'n str) -> Option<Found<'n>> {
        if let Some(found) = self.known(name) {
            return Some(found);
        }
        let split = split(name);
        let varied = split.and_then(|(base, effort)| Some((self.known(base)?.0, Some(effort))));
        varied.or_else(|| match &self.aliases.any {
            Some(id) => {
                let (id, own) = self.target(id);
                Some((id, split.map(|(_, effort)| effort).or(own)))
            }
            None => self.models.open.then_some((Some(name), None)),
        })
    }

    /// A name without a suffix of the client's.
    fn known<'n>(&'n self, name: &'n str) -> Option<Found<'n>> {
        let alias = self.aliases.names.iter().find(|(alias, _)| alias == name);
        alias.map(|(_, id)| self.target(id)).or_else(|| Some((self.real(name)?, None)))
    }

    /// What an alias stands for: a model, one with a suffix, or a name that only codex knows.
    fn target<'n>(&'n self, id: &'n str) -> Found<'n> {
        let varied = || split(id).and_then(|(base, effort)| Some((self.real(base)?, Some(effort))));
        self.real(id).map(|id| (id, None)).or_else(varied).unwrap_or((Some(id), None))
    }

    /// A model that is there by itself.
    fn real<'n>(&'n self, name: &'n str) -> Option<Option<&'n str>> {
        let is_listed = self.models.listed.iter().any(|model| model.id == name);
        if is_listed || self.configured == Some(name) || self.models.default.as_deref() == Some(name) {
            return Some(Some(name));
        }
        (name == DEFAULT_NAME).then(|| self.default())
    }

    fn efforts(&self, id: Option<&str>) -> &[String] {
        let model = self.models.listed.iter().find(|model| Some(model.id.as_str()) == id);
        model.map_or(&[], |model| &model.efforts)
    }
}

/// Codex's name of a model (`None`: its default), and the effort that a suffix adds.
type Found<'n> = (Option<&'n str>, Option<&'static str>);

/// A name and its suffix for the effort.
fn split(name: &str) -> Option<(&str, &'static str)> {
    EFFORTS.iter().skip(1).find_map(|effort| {
        let base = name.strip_suffix(effort)?.strip_suffix('-')?;
        (!base.is_empty()).then_some((base, *effort))
    })
}

/// The listed effort that is nearest to `wanted`, the lesser of two; `wanted` itself where none is known.
fn nearest<'a>(wanted: &'a str, listed: &'a [String]) -> Option<&'a str> {
    let rank = |effort: &str| EFFORTS.iter().position(|known| *known == effort);
    if listed.is_empty() {
        return Some(wanted);
    }
    let known = listed.iter().filter_map(|effort| Some((rank(effort)?.abs_diff(rank(wanted)?), rank(effort)?, effort)));
    known.min().map(|(_, _, effort)| effort.as_str())
}

fn entry(id: &str) -> String {
    format!(r#"{{"id":{},"object":"model","created":{CREATED},"owned_by":"openai"}}"#, Value::from(id))
}
