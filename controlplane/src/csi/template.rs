//! The configurations that a class defines: Go templates, as the connectors family writes them.
//!
//! A class's configuration, parameters and [`Facts`] in, files out; pure. The syntax is all of Go's
//! `text/template`; of sprig there are the functions of [`FUNCTIONS`], and `urlParse`. What a
//! template uses beyond them, and a value that is not there, is refused by its name: a file with
//! `<no value>` in it would be found out much later, by a tool.

mod calls;

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotmpl::{Template, TemplateError, Value};
use serde_json::{Map, json};

use super::attributes::{FILE_NAME_BYTES_MAX, is_file_name};
use super::facts::{ClassConfiguration, ClassFacts, Facts};
use super::refusal::{Quoted, Refusal};
use super::render::{Files, VOLUME_BYTES_MAX, own_certificates};
use crate::compile::address;
use crate::crd::ParameterRule;

/// Adds the files of `configuration` to `files`.
pub(super) fn render(
    configuration: &ClassConfiguration,
    class: &ClassFacts,
    given: &BTreeMap<String, String>,
    facts: &Facts<'_>,
    files: &mut Files,
) -> Result<(), Refusal> {
    let params = parameters(configuration, given)?;
    let connectors: Vec<_> = facts.connectors.iter().map(|connector| &connector.value).collect();
    let data = json!({
        "connector": connectors.last(),
        "connectors": connectors,
        "connectorclass": {"proxyAddress": class.proxy_url},
        "context": {
            "token": facts.token,
            "proxy": {"caCert": own_certificates(facts).unwrap_or_default()},
        },
        "configurations": params,
    });
    for (file, text) in &configuration.data {
        if !is_file_name(file) {
            return Err(Refusal::FileName {
                configuration: Quoted::new(&configuration.name),
                file: Quoted::new(file),
                most: FILE_NAME_BYTES_MAX,
            });
        }
        let refused = |why: &str| Refusal::Template {
            configuration: Quoted::new(&configuration.name),
            file: Quoted::new(file),
            // An error may quote a value, and one value is the token.
            why: Quoted::new(if why.contains(facts.token) {
                "its error holds the token"
            } else {
                why
            }),
        };
        let content = execute(file, text, &data).map_err(|cause| match cause {
            TemplateError::UndefinedFunction(name) => {
                refused(&format!("the function {name} is not supported"))
            }
            cause => refused(&cause.to_string()),
        })?;
        if content.contains(ABSENT) && !text.contains(ABSENT) {
            return Err(refused("it shows a value that is not there"));
        }
        files.put(file, content);
    }
    Ok(())
}

/// The values of a configuration's parameters: what was given, else the class's default.
fn parameters(
    configuration: &ClassConfiguration,
    given: &BTreeMap<String, String>,
) -> Result<Map<String, serde_json::Value>, Refusal> {
    let name = || Quoted::new(&configuration.name);
    let rules = &configuration.params;
    if let Some(unknown) = given.keys().find(|key| !rules.iter().any(|rule| rule.name == **key)) {
        let known: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
        return Err(Refusal::ParamUnknown {
            configuration: name(),
            name: Quoted::new(unknown),
            known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        });
    }
    let value = |rule: &ParameterRule| {
        let value =
            given.get(&rule.name).map(|value| json!(value)).or_else(|| rule.default.clone());
        let value = value.ok_or_else(|| Refusal::ParamMissing {
            configuration: name(),
            name: Quoted::new(&rule.name),
        })?;
        if !rule.one_of.is_empty() && !rule.one_of.contains(&value) {
            let known: Vec<String> = rule.one_of.iter().map(ToString::to_string).collect();
            return Err(Refusal::ParamValue {
                configuration: name(),
                name: Quoted::new(&rule.name),
                why: format!("is one of {}", known.join(", ")),
            });
        }
        Ok((rule.name.clone(), value))
    };
    rules.iter().map(value).collect()
}

/// The text that the template makes of `data`, within bounds of size and steps.
fn execute(name: &str, text: &str, data: &serde_json::Value) -> Result<String, TemplateError> {
    calls::check(text, |called| FUNCTIONS.iter().any(|(known, _)| *known == called))?;
    let mut template = Template::new(name).max_range_iters(RANGE_STEPS_MAX);
    for (name, function) in FUNCTIONS {
        template = template.func(name, function);
    }
    let template = template.parse(text)?;
    let mut out = Bounded(String::new());
    template.execute_fmt(&mut out, &gotmpl::to_value(data)?)?;
    Ok(out.0)
}

/// A text that stops at [`VOLUME_BYTES_MAX`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > VOLUME_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

type Function = fn(&[Value]) -> Result<Value, TemplateError>;

/// The functions of sprig that such templates use, with the names and the order of arguments that
/// sprig gives them (masterminds.github.io/sprig), and `urlParse` of the connectors family.
const FUNCTIONS: &[(&str, Function)] = &[
    ("b64enc", |given| one(given, |text| STANDARD.encode(text))),
    ("b64dec", |given| {
        let bytes = STANDARD.decode(text(given, 0)?).map_err(|_| wrong("b64dec: not Base64"))?;
        String::from_utf8(bytes).map(string).map_err(|_| wrong("b64dec: not a text"))
    }),
    ("trim", |given| one(given, |text| text.trim().to_owned())),
    ("upper", |given| one(given, str::to_uppercase)),
    ("lower", |given| one(given, str::to_lowercase)),
    ("quote", |given| one(given, |text| format!("{text:?}"))),
    ("squote", |given| one(given, |text| format!("'{text}'"))),
    ("toString", |given| one(given, str::to_owned)),
    ("trimPrefix", |given| {
        two(given, |prefix, text| text.strip_prefix(prefix).unwrap_or(text).to_owned())
    }),
    ("trimSuffix", |given| {
        two(given, |suffix, text| text.strip_suffix(suffix).unwrap_or(text).to_owned())
    }),
    ("hasPrefix", |given| Ok(Value::Bool(text(given, 1)?.starts_with(&text(given, 0)?)))),
    ("hasSuffix", |given| Ok(Value::Bool(text(given, 1)?.ends_with(&text(given, 0)?)))),
    ("contains", |given| Ok(Value::Bool(text(given, 1)?.contains(&text(given, 0)?)))),
    ("replace", |given| Ok(string(text(given, 2)?.replace(&text(given, 0)?, &text(given, 1)?)))),
    ("indent", |given| indent(given, "")),
    ("nindent", |given| indent(given, "\n")),
    ("default", |given| {
        let value = given.get(1).filter(|value| value.is_truthy()).or_else(|| given.first());
        value.cloned().ok_or_else(|| wrong("default: too few arguments"))
    }),
    ("join", |given| {
        let Some(Value::List(items)) = given.get(1) else {
            return Err(wrong("join: the second argument is no list"));
        };
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        Ok(string(items.join(&text(given, 0)?)))
    }),
    ("urlParse", |given| url(&text(given, 0)?)),
];

fn one(given: &[Value], made: impl Fn(&str) -> String) -> Result<Value, TemplateError> {
    Ok(string(made(&text(given, 0)?)))
}

fn two(given: &[Value], made: impl Fn(&str, &str) -> String) -> Result<Value, TemplateError> {
    Ok(string(made(&text(given, 0)?, &text(given, 1)?)))
}

/// `indent` and `nindent`: as many spaces before every line.
fn indent(given: &[Value], before: &str) -> Result<Value, TemplateError> {
    let width = given.first().and_then(Value::as_int).and_then(|width| usize::try_from(width).ok());
    let width =
        width.filter(|width| *width <= 64).ok_or_else(|| wrong("indent: 0 to 64 spaces"))?;
    let space = " ".repeat(width);
    let text = text(given, 1)?;
    Ok(string(format!("{before}{space}{}", text.replace('\n', &format!("\n{space}")))))
}

/// The parts of a URL, by the names that sprig gives them.
fn url(text: &str) -> Result<Value, TemplateError> {
    let (origin, path) =
        address::parse(text).map_err(|why| wrong(&format!("urlParse: it {why}")))?;
    gotmpl::to_value(&json!({
        "scheme": origin.scheme.as_str(),
        "host": origin.authority(),
        "hostname": &*origin.host,
        "path": path,
    }))
}

fn text(given: &[Value], index: usize) -> Result<String, TemplateError> {
    given.get(index).map(ToString::to_string).ok_or_else(|| wrong("too few arguments"))
}

fn string(text: String) -> Value {
    Value::String(text.into())
}

fn wrong(what: &str) -> TemplateError {
    TemplateError::Exec(what.to_owned())
}

/// What Go writes in the place of a value that is not there.
const ABSENT: &str = "<no value>";

/// Steps of all `range` actions of one file.
const RANGE_STEPS_MAX: u64 = 10_000;
