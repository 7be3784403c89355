//! The audit's events as lines of JSON, each with the same keys in the same order.
//!
//! Events of the target `audit` in, lines for the journal out; every other event is none of its
//! business. docs/reference/audit.md says what the keys mean.

use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::Context;

use super::journal::Lines;

/// The target of the audit's events.
pub(super) const TARGET: &str = "audit";

/// Turns events into lines.
pub(super) struct Audit(pub(super) Lines);

impl<S: Subscriber> Layer<S> for Audit {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::begin();
        event.record(&mut line);
        self.0.put(line.end());
    }
}

/// The line that says how many others are not there.
pub(super) fn lost(count: u64) -> String {
    let mut line = Line::begin();
    line.text("action", "lost");
    // A number needs no escape.
    let _ = write!(line.0, ",\"lines\":{count}");
    line.end()
}

/// A line being written.
struct Line(String);

impl Line {
    fn begin() -> Self {
        let mut line = String::with_capacity(LINE_BYTES);
        line.push_str("{\"time\":\"");
        // Neither a clock nor a string refuses.
        let _ = SystemTime.format_time(&mut Writer::new(&mut line));
        line.push_str("\",\"target\":\"audit\"");
        Self(line)
    }

    fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }

    /// A text; what is not known is null.
    fn text(&mut self, key: &str, text: &str) {
        let value = if text.is_empty() { Value::Null } else { Value::from(text) };
        self.value(key, &value);
    }

    fn value(&mut self, key: &str, value: &Value) {
        let _ = write!(self.0, ",\"{key}\":{value}");
    }

    /// Who called. A ServiceAccount's name says its namespace (Kubernetes, "Authenticating").
    fn caller(&mut self, user: &str) {
        let account = user.strip_prefix("system:serviceaccount:");
        let account = account.and_then(|account| account.split_once(':'));
        let (namespace, name) = account.unwrap_or_default();
        self.text("user", user);
        self.text("namespace", namespace);
        self.text("service_account", name);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "caller" => self.caller(value),
            // A Pod is in the namespace of its ServiceAccount.
            "pod" => self.text("pod", value.rsplit('/').next().unwrap_or_default()),
            name => self.text(name, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let is_unknown = value == 0 && field.name().ends_with("status");
        let value = if is_unknown { Value::Null } else { Value::from(value) };
        self.value(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field.name(), &Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}

/// What most lines have room in.
const LINE_BYTES: usize = 768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped_and_what_is_unknown_is_null() {
        let mut line = Line::begin();
        line.text("tag", "");
        line.text("host", "a\"b\\\n");
        line.caller("system:serviceaccount:ci:builder");
        let line: Value = serde_json::from_str(&line.end()).unwrap();
        assert_eq!(line["tag"], Value::Null);
        assert_eq!(line["host"], "a\"b\\\n");
        assert_eq!(
            (&line["namespace"], &line["service_account"]),
            (&"ci".into(), &"builder".into())
        );
    }

    #[test]
    fn a_user_who_is_no_service_account_keeps_its_name() {
        let mut line = Line::begin();
        line.caller("jane");
        let line: Value = serde_json::from_str(&line.end()).unwrap();
        assert_eq!((&line["user"], &line["namespace"]), (&"jane".into(), &Value::Null));
    }

    #[test]
    fn lost_lines_are_a_line_themselves() {
        let line: Value = serde_json::from_str(&lost(3)).unwrap();
        assert_eq!((&line["action"], &line["lines"]), (&"lost".into(), &3.into()));
    }
}
