//! What of a person's configuration carries over into a home of the proxy's own: the model, the provider and where to
//! reach it, as codex itself reads them (`config/read`, 0.66 – 0.169). Everything else stays behind.
//!
//! It holds secrets: it is never logged, and goes into a file that only the owner can read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config_text;
use super::redact::redacted;
use crate::config::Secret;

/// The id of the provider made for `OPENAI_API_KEY`.
pub const KEY_PROVIDER: &str = "openai-env";
/// The id of the provider that stands for the built-in one at another address.
const GATEWAY_PROVIDER: &str = "openai-gateway";
/// Where the built-in provider lives.
const OPENAI: &str = "https://api.openai.com/v1";

/// The part of `config/read`'s answer that is used.
#[derive(Debug, Default, Deserialize)]
pub struct Person {
    #[serde(default)]
    config: PersonConfig,
    #[serde(default)]
    origins: BTreeMap<String, Value>,
    /// Whether codex did not read it itself.
    #[serde(default)]
    by_text: bool,
}

#[derive(Debug, Default, Deserialize)]
struct PersonConfig {
    model: Option<String>,
    model_provider: Option<String>,
    openai_base_url: Option<String>,
    chatgpt_base_url: Option<String>,
    forced_login_method: Option<Value>,
    forced_chatgpt_workspace_id: Option<Value>,
    cli_auth_credentials_store: Option<String>,
    #[serde(default)]
    model_providers: Option<Map<String, Value>>,
}

/// What the environment adds.
#[derive(Debug, Default)]
pub struct Outside<'a> {
    /// `CODEX_MODEL`.
    pub model: Option<&'a str>,
    /// `CODEX_FORCE_PROVIDER`.
    pub provider: Option<&'a str>,
    /// `OPENAI_API_KEY`.
    pub api_key: Option<&'a Secret>,
    /// Whether the person's home has an `auth.json`.
    pub logged_in: bool,
    /// Whether a provider that is made here goes among codex's arguments, which everybody on the host can read.
    pub visible: bool,
}

/// What a generation runs with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Text of its config.toml.
    pub config: String,
    /// What `--config` has to say: a provider that does not exist ends codex there alone.
    pub keys: Vec<(String, Value)>,
    /// The same of a provider that is made here, for a codex on the person's own home; no secret is in it.
    pub definition: Vec<(String, Value)>,
    /// The model of the settings or the configuration, if one is named.
    pub model: Option<String>,
    /// Whether a name that is not listed may be a model too.
    pub open: bool,
    /// The variable that holds the provider's key.
    pub env_key: Option<String>,
    /// Whether codex's own service or a ChatGPT login may be behind it, so that it may ask the network for models.
    pub builtin: bool,
    /// What a person should know: settings that cannot carry over.
    pub warnings: Vec<String>,
}

/// Reads the result of `config/read`.
///
/// # Errors
/// Words for a person.
pub fn read(result: &str) -> Result<Person, String> {
    let failed = |e: serde_json::Error| {
        format!("codex's config/read answers in a form that is not known: {}", redacted(&e.to_string()))
    };
    let mut result: Value = serde_json::from_str(result).map_err(failed)?;
    merge_profile(&mut result["config"]);
    serde_json::from_value(result).map_err(failed)
}

/// Reads a config.toml itself, where codex does not (0.44 – 0.65).
///
/// # Errors
/// Words for a person.
pub fn read_text(text: &str) -> Result<Person, String> {
    let mut config = config_text::read(text).ok_or("config.toml is written in a way that is not understood here")?;
    merge_profile(&mut config);
    let origins = config.clone();
    serde_json::from_value(json!({"config": config, "origins": origins, "by_text": true}))
        .map_err(|e| format!("config.toml has a value of the wrong type: {}", redacted(&e.to_string())))
}

/// Up to 0.121 codex leaves it to the reader to look into the profile that is chosen.
fn merge_profile(config: &mut Value) {
    let profile = config["profile"].as_str().and_then(|name| config["profiles"][name].as_object()).cloned();
    for key in ["model", "model_provider", "chatgpt_base_url"] {
        if let Some(value) = profile.as_ref().and_then(|profile| profile.get(key)).filter(|value| !value.is_null()) {
            config[key] = value.clone();
        }
    }
}

impl Person {
    /// A base URL counts only when somebody set it: 0.169 reports a default.
    fn set<'a>(&self, key: &str, value: &'a Option<String>) -> Option<&'a str> {
        value.as_deref().filter(|_| self.origins.contains_key(key))
    }

    /// Decides what carries over.
    pub fn inherit(&self, outside: &Outside<'_>) -> Inherited {
        let config = &self.config;
        let mut own = Map::new();
        let mut result =
            Inherited { model: outside.model.or(config.model.as_deref()).map(str::to_owned), ..Inherited::default() };
        if self.by_text {
            let words = "this codex does not tell what config.toml says: of it, model and providers carry over";
            result.warnings.push(words.to_owned());
        }
        result.keys.extend(outside.model.map(|model| ("model".to_owned(), json!(model))));
        if let Some(model) = &result.model {
            own.insert("model".to_owned(), json!(model));
        }
        if let Some(url) = self.set("chatgpt_base_url", &config.chatgpt_base_url) {
            own.insert("chatgpt_base_url".to_owned(), json!(url));
        }
        for (key, value) in [
            ("forced_login_method", &config.forced_login_method),
            ("forced_chatgpt_workspace_id", &config.forced_chatgpt_workspace_id),
        ] {
            if let Some(value) = value {
                own.insert(key.to_owned(), value.clone());
            }
        }
        if config.cli_auth_credentials_store.as_deref().is_some_and(|store| store != "file" && store != "auto") {
            result.warnings.push(
                "config.toml keeps the login in a keyring, which does not carry over; \
                 log in with cli_auth_credentials_store = \"file\", or set OPENAI_API_KEY"
                    .to_owned(),
            );
        }
        let wanted = outside.provider.or(config.model_provider.as_deref()).unwrap_or("openai");
        let base_url = self.set("openai_base_url", &config.openai_base_url);
        let custom = config.model_providers.as_ref().and_then(|providers| providers.get(wanted));
        let (id, definition) = match (custom, base_url) {
            // Without a definition it is one that codex brings along (such as `oss`), or does not exist: codex knows.
            (custom, _) if wanted != "openai" => {
                result.open = true;
                result.env_key = custom.and_then(|provider| provider.get("env_key")?.as_str()).map(str::to_owned);
                (wanted, custom.cloned())
            }
            (_, Some(url)) if outside.visible && url.contains(['@', '?']) => {
                result.builtin = true;
                result.warnings.push(
                    "openai_base_url has a user name or a query, which would be visible among codex's arguments: it stays \
                     with codex, which tries WebSocket first and leaves OPENAI_API_KEY out; make it a provider of its own \
                     in config.toml and name that as model_provider"
                        .to_owned(),
                );
                (wanted, None)
            }
            (_, url) if outside.api_key.is_some() && !outside.logged_in => {
                result.open = true;
                result.env_key = Some("OPENAI_API_KEY".to_owned());
                let url = url.unwrap_or(OPENAI);
                let provider =
                    json!({"name": "OpenAI", "base_url": url, "wire_api": "responses", "env_key": "OPENAI_API_KEY"});
                (KEY_PROVIDER, Some(provider))
            }
            // Left as openai_base_url, codex would try WebSocket first: 6 s on every completion at a gateway without it.
            (_, Some(url)) => {
                let provider = json!({"name": "OpenAI", "base_url": url, "wire_api": "responses",
                    "requires_openai_auth": true, "supports_websockets": false});
                (GATEWAY_PROVIDER, Some(provider))
            }
            (_, None) => {
                result.builtin = true;
                (wanted, None)
            }
        };
        if !result.builtin || outside.provider.is_some() {
            result.keys.push(("model_provider".to_owned(), json!(id)));
        }
        if let Some(mut provider) = definition {
            own.insert("model_provider".to_owned(), json!(id));
            // Where nobody set it, the working directory is that of the process which read it.
            if let Some(auth) = provider.get_mut("auth").and_then(Value::as_object_mut)
                && !self.origins.contains_key(&format!("model_providers.{id}.auth.cwd"))
            {
                auth.remove("cwd");
            }
            // One by one: 0.50 does not take them as one object.
            let keys = provider.as_object().into_iter().flatten();
            let keys = keys.map(|(key, value)| (format!("model_providers.{id}.{key}"), value.clone()));
            result.definition.extend(keys.filter(|_| [KEY_PROVIDER, GATEWAY_PROVIDER].contains(&id)));
            own.insert("model_providers".to_owned(), json!({ id: provider }));
        }
        result.config = own.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", toml(value)?))).collect();
        result
    }
}

/// A JSON value as a TOML value on one line. `None` for null, which TOML does not have; nulls within are left out.
pub fn toml(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        // JSON's escapes are TOML's, except that TOML wants DEL escaped too.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007F"),
        Value::Array(values) => format!("[{}]", values.iter().filter_map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                Some(format!("{} = {}", toml(&Value::from(key.as_str()))?, toml(value)?))
            };
            format!("{{{}}}", map.iter().filter_map(entry).collect::<Vec<_>>().join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(config: Value, origins: &[&str]) -> Person {
        let origins: Map<String, Value> = origins.iter().map(|key| ((*key).to_owned(), json!({}))).collect();
        read(&json!({"config": config, "origins": origins, "by_text": true}).to_string()).unwrap()
    }

    #[test]
    fn a_provider_carries_over_whole_and_nothing_else_does() {
        let person = person(
            json!({"model": "m", "model_provider": "mock", "developer_instructions": "be rude", "notify": ["x"],
                "mcp_servers": {"a": {"command": "x"}}, "chatgpt_base_url": "https://chatgpt.com/backend-api/",
                "model_providers": {"other": {"name": "o"}, "mock": {"name": "mock", "base_url": "http://h/v1",
                    "env_key": "MOCK_KEY", "query_params": {"api-version": "1"}, "aws": null,
                    "auth": {"command": "get-token", "cwd": "/here", "timeout_ms": 5000}}}}),
            &["model"],
        );
        let own = person.inherit(&Outside::default());
        assert_eq!(
            own.config,
            "model = \"m\"\nmodel_provider = \"mock\"\nmodel_providers = {\"mock\" = {\"auth\" = {\"command\" = \"get-token\", \
             \"timeout_ms\" = 5000}, \"base_url\" = \"http://h/v1\", \"env_key\" = \"MOCK_KEY\", \"name\" = \"mock\", \
             \"query_params\" = {\"api-version\" = \"1\"}}}\n"
        );
        assert!(own.open && !own.builtin);
        assert_eq!((own.env_key.as_deref(), own.model.as_deref()), (Some("MOCK_KEY"), Some("m")));
    }

    #[test]
    fn the_working_directory_of_a_program_for_tokens_carries_over_where_somebody_set_it() {
        let auth = json!({"command": "./token", "cwd": "/here"});
        let config = json!({"model_provider": "m", "model_providers": {"m": {"auth": auth}}});
        assert!(!person(config.clone(), &[]).inherit(&Outside::default()).config.contains("/here"));
        let set = person(config, &["model_providers.m.auth.cwd"]).inherit(&Outside::default());
        assert!(set.config.contains(r#""cwd" = "/here""#), "{}", set.config);
    }

    #[test]
    fn a_base_url_becomes_a_provider_without_websockets_only_when_somebody_set_it() {
        let url = json!({"openai_base_url": "http://gw/v1"});
        let own = person(url.clone(), &["openai_base_url"]).inherit(&Outside::default());
        assert!(own.config.contains("model_provider = \"openai-gateway\""));
        assert!(own.config.contains("supports_websockets\" = false") && !own.open);
        let own = person(url, &[]).inherit(&Outside::default());
        assert!(own.builtin && own.config.is_empty() && own.keys.is_empty());
    }

    #[test]
    fn a_base_url_with_a_secret_does_not_become_an_argument() {
        let key = Secret::new("sk-secret");
        for url in ["http://me:secret@gw/v1", "http://gw/v1?key=secret"] {
            let person = person(json!({"openai_base_url": url}), &["openai_base_url"]);
            for (api_key, visible) in [(None, true), (Some(&key), true), (None, false), (Some(&key), false)] {
                let own = person.inherit(&Outside { api_key, visible, ..Outside::default() });
                let warned = own.warnings.iter().any(|words| words.starts_with("openai_base_url"));
                assert_eq!((own.keys.is_empty(), own.definition.is_empty(), warned), (visible, visible, visible));
                assert!(own.config.contains(url) != visible && !own.warnings.concat().contains("secret"), "{own:?}");
            }
        }
    }

    #[test]
    fn a_key_of_the_environment_counts_only_without_login_and_provider() {
        let key = Secret::new("sk-secret");
        let outside = |logged_in| Outside { api_key: Some(&key), logged_in, ..Outside::default() };
        let own = person(json!({}), &[]).inherit(&outside(false));
        assert_eq!(own.env_key.as_deref(), Some("OPENAI_API_KEY"));
        assert_eq!(own.keys[0], ("model_provider".to_owned(), json!(KEY_PROVIDER)));
        assert!(own.definition.contains(&(format!("model_providers.{KEY_PROVIDER}.base_url"), json!(OPENAI))));
        assert!(own.open && !own.config.contains("sk-secret") && own.config.contains(OPENAI));
        assert!(person(json!({}), &[]).inherit(&outside(true)).builtin);
        let mock = json!({"model_provider": "mock", "model_providers": {"mock": {"name": "mock"}}});
        assert_eq!(person(mock, &[]).inherit(&outside(false)).env_key, None);
    }

    #[test]
    fn a_file_and_a_profile_carry_over_like_codex_s_own_reading() {
        let text = "profile = 'p'\nmodel = 'a'\nopenai_base_url = 'http://gw/v1'\n[profiles.p]\nmodel = 'b'\nmodel_provider = 'mock'\n\
            [model_providers.mock]\nname = 'mock'\nbase_url = 'http://h/v1'\nenv_key = 'MOCK_KEY'\n";
        let own = read_text(text).unwrap().inherit(&Outside::default());
        assert_eq!((own.model.as_deref(), own.env_key.as_deref()), (Some("b"), Some("MOCK_KEY")));
        assert!(own.config.contains("model_provider = \"mock\"") && own.definition.is_empty());
        let own = read_text("openai_base_url = 'http://gw/v1'").unwrap().inherit(&Outside::default());
        assert!(own.config.contains(GATEWAY_PROVIDER));
        assert!(read_text("model = [").is_err());
        let words = read_text("model_providers = 'sk-x'").unwrap_err();
        assert!(words.contains("string \"…\"") && !words.contains("sk-x"), "{words}");
    }

    #[test]
    fn a_keyring_is_warned_of() {
        let own = person(json!({"cli_auth_credentials_store": "keyring"}), &[]).inherit(&Outside::default());
        assert!(own.warnings.iter().any(|warning| warning.contains("keyring")));
    }

    #[test]
    fn toml_values_escape_what_toml_wants() {
        assert_eq!(
            toml(&json!({"a b": ["x\u{7f}\"\n", 1, null, true]})).unwrap(),
            "{\"a b\" = [\"x\\u007F\\\"\\n\", 1, true]}"
        );
        assert_eq!(toml(&Value::Null), None);
    }
}
