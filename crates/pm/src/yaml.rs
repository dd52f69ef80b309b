//! YAML (and so JSON) as a tree in which every value knows its line, read under a strict budget.

use std::fmt;

use contract::{Error, ErrorKind};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Deepest nesting of lists and maps.
const DEPTH_MAX: usize = 16;
/// Most values in one document, after aliases have been followed.
const NODES_MAX: usize = 20_000;

/// A value and the line it begins on, counted from 1.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) line: u64,
    pub(crate) value: Tree,
}

#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// Keys with their lines, in the order of the file.
    Map(Vec<(String, u64, Node)>),
}

impl Tree {
    /// The word for it in messages.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Tree::Null => "nothing",
            Tree::Bool(_) => "true or false",
            Tree::Number(_) => "a number",
            Tree::Text(_) => "a text",
            Tree::List(_) => "a list",
            Tree::Map(_) => "keys with values",
        }
    }

    /// The scalar as text; `None` for lists, maps and null.
    pub(crate) fn scalar(&self) -> Option<String> {
        match self {
            Tree::Bool(value) => Some(value.to_string()),
            Tree::Number(value) => Some(value.to_string()),
            Tree::Text(value) => Some(value.clone()),
            Tree::Null | Tree::List(_) | Tree::Map(_) => None,
        }
    }

    /// The same without lines.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Number(value) => Value::Number(value.clone()),
            Tree::Text(value) => Value::String(value.clone()),
            Tree::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Tree::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, _, node)| (key.clone(), node.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

/// Reads one document.
///
/// # Errors
///
/// `Invalid`: not YAML, or over the budget; with the name of the source, line and column.
pub(crate) fn parse(source: &str, text: &str) -> Result<Node, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 3,
            max_aliases: 64,
            max_anchors: 64,
            max_recorded_anchor_events: NODES_MAX,
            max_recorded_anchor_bytes: 1 << 20,
            max_total_scalar_bytes: 1 << 20,
            max_documents: 1,
            max_merge_keys: 16,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: DEPTH_MAX,
            max_alias_expansions_per_anchor: 64,
        },
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Loose>>(text, options) {
        Ok(document) => Ok(document.into()),
        Err(error) => Err(broken(source, &error)),
    }
}

fn broken(source: &str, error: &serde_saphyr::Error) -> Error {
    let is_bomb = matches!(error.without_snippet(), serde_saphyr::Error::Budget { .. })
        || format!("{:?}", error.without_snippet()).starts_with("AliasReplay")
        || format!("{:?}", error.without_snippet()).starts_with("AliasExpansion");
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let first_line = text.lines().next().unwrap_or_default().to_owned();
    let mut broken = if is_bomb {
        Error::new(ErrorKind::Invalid, "the YAML expands to more than a task may hold")
            .hint(format!("write it without aliases, at most {DEPTH_MAX} levels deep and {NODES_MAX} values"))
    } else {
        Error::new(ErrorKind::Invalid, "not valid YAML")
            .hint("quote texts that hold `: `, `#`, `*`, `&`, `{` or `[`, and indent with spaces")
    };
    broken = broken.with("file", source);
    if let Some(location) = error.location() {
        broken = broken.with("line", location.line()).with("column", location.column());
    }
    broken.with("reason", first_line)
}

/// A value of any shape, with the places of its parts.
enum Loose {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Spanned<Loose>>),
    Map(Vec<(Spanned<String>, Spanned<Loose>)>),
}

impl From<Spanned<Loose>> for Node {
    fn from(spanned: Spanned<Loose>) -> Self {
        let line = spanned.referenced.line();
        let value = match spanned.value {
            Loose::Null => Tree::Null,
            Loose::Bool(value) => Tree::Bool(value),
            Loose::Number(value) => Tree::Number(value),
            Loose::Text(value) => Tree::Text(value),
            Loose::List(items) => Tree::List(items.into_iter().map(Node::from).collect()),
            Loose::Map(entries) => Tree::Map(
                entries
                    .into_iter()
                    .map(|(key, node)| (key.value, key.referenced.line(), Node::from(node)))
                    .collect(),
            ),
        };
        Node { line, value }
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_none<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Number::from_f64(value).map_or_else(|| Loose::Text(value.to_string()), Loose::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Loose::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Loose, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Loose::Map(map))
    }
}
