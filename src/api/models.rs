//! Which names of models exist and what they stand for.
//!
//! `GET /v1/models` lists what the app-server lists, the configured model and the aliases. Names that merely vary these
//! (`codex-5`, a suffix for the effort, what `*` catches) are not listed but found by id, like every name that a request
//! may use.

use serde::Serialize;

use crate::turn::Models;

use super::Effort;
use super::error::ApiError;
use super::json::brief;

/// Efforts, least first. All but `none` can be suffixes of a model's name.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// Always the default model.
const DEFAULT_NAME: &str = "codex-5";

/// `created` of every model: 2025-01-01. Nobody tells the real ones.
const CREATED: u64 = 1_735_689_600;

/// Names that stand for models (`PROXY_MODEL_ALIASES`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    names: Vec<(String, String)>,
    any: Option<String>,
}

impl Aliases {
    /// Reads `name=id,name=id`, where `*` is every other name.
    ///
    /// # Errors
    /// All that is wrong with it, as text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut aliases, mut problems) = (Self::default(), Vec::new());
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(name, id)| (name.trim(), id.trim())) {
                Some((name, id)) if name.is_empty() || id.is_empty() => problems.push(format!("`{pair}` lacks a side")),
                Some((name, _)) if aliases.is_taken(name) => problems.push(format!("`{name}` is there twice")),
                Some(("*", id)) => aliases.any = Some(id.to_owned()),
                Some((name, id)) => aliases.names.push((name.to_owned(), id.to_owned())),
                None => problems.push(format!("`{pair}` is not of the form name=id")),
            }
        }
        if problems.is_empty() { Ok(aliases) } else { Err(problems.join(", ")) }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.names.iter().any(|(taken, _)| taken == name) || (name == "*" && self.any.is_some())
    }
}

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
        text(&List { object: "list", data: ids.into_iter().map(Entry::new).collect() })
    }

    /// The JSON of `GET /v1/models/{id}`.
    ///
    /// # Errors
    /// 404 for a name that a request could not use either.
    pub fn get(&self, id: &str) -> Result<String, ApiError> {
        self.find(id).map(|_| text(&Entry::new(id))).ok_or_else(|| ApiError::model_not_found(id))
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

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> Entry<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: CREATED, owned_by: "openai" }
    }
}

fn text(value: &impl Serialize) -> String {
    // Strings and numbers always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Model;

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
            Aliases::parse("fast=gpt-6-sol-low, gpt-4o=bare,codex=codex-5,odd=hidden-high,gpt-6-sol-xhigh=bare")
                .unwrap();
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
            assert_eq!(
                (error.status, error.code, error.param.as_deref()),
                (404, Some("model_not_found"), Some("model"))
            );
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
}
