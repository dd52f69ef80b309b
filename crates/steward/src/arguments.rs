//! From a request's JSON Schema to command-line arguments, and from these back to JSON.

use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use contract::{Effect, Error, ErrorKind, RequestSpec};
use serde_json::{Map, Value};

/// Largest file that is read into an argument, in bytes. Rooms have stricter bounds of their own.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Fields whose command-line argument names a file (or `-` for standard input) that holds the value.
const FILE_FIELDS: &[(&str, &str)] = &[("audit.verify", "head"), ("store.diff", "snapshot")];

/// Requests whose `file` names a file (or `-`) that goes into `text`: a room never opens files itself.
const TEXT_REQUESTS: &[&str] = &["task.run", "task.plan"];

/// Fields that name a file or folder for Steward to look at, from the folder in which the command was given.
const PATH_FIELDS: &[(&str, &str)] = &[("ai.scan", "path"), ("ai.import", "path")];

/// What a field takes.
enum Kind {
    Flag,
    Integer {
        negative: bool,
    },
    Number,
    Text,
    Choice(Vec<String>),
    List(Box<Kind>),
    /// Any value: JSON if it reads as such, otherwise text.
    Any,
    Json,
}

/// The command of one request: example first, then its arguments.
pub(crate) fn command(spec: &RequestSpec, name: String) -> Command {
    let mut command = Command::new(name)
        .about(spec.summary)
        .before_help(format!("Example: {}", spec.example))
        .args(args(spec));
    if spec.effect == Effect::Change {
        command = command
            .arg(
                Arg::new("dry_run")
                    .long("dry-run")
                    .action(ArgAction::SetTrue)
                    .help("Shows the plan and what the authority matrix says; changes nothing"),
            )
            .arg(
                Arg::new("yes")
                    .long("yes")
                    .short('y')
                    .action(ArgAction::SetTrue)
                    .help("Does not ask on a terminal"),
            );
    }
    command
}

fn args(spec: &RequestSpec) -> Vec<Arg> {
    let required = required(&spec.schema);
    properties(&spec.schema)
        .map(|(name, property)| {
            let file = is_file(spec.name, name);
            let mut help = description(property);
            if let Some(default) =
                property.get("default").filter(|value| !value.is_null() && **value != Value::Bool(false))
            {
                help = format!(
                    "{help} [default: {}]",
                    default.as_str().map_or_else(|| default.to_string(), str::to_owned)
                );
            }
            let position = spec.positional.iter().position(|positional| positional == name);
            let mut arg = Arg::new(name.clone()).help(if file {
                format!("File to read, or - for standard input: {help}")
            } else {
                help
            });
            let kind = kind(&spec.schema, property);
            arg = arg.value_name(name.to_uppercase());
            if let Some(position) = position {
                arg = arg.index(position + 1).required(required.contains(&name.as_str()));
            } else {
                arg = arg
                    .long(name.replace('_', "-"))
                    .required(required.contains(&name.as_str()) && !matches!(kind, Kind::Flag));
            }
            if file {
                return arg.value_name("FILE");
            }
            match kind {
                Kind::Flag => arg.action(ArgAction::SetTrue),
                Kind::Choice(choices) => arg.value_parser(PossibleValuesParser::new(choices)),
                Kind::List(_) if position.is_some() => arg.num_args(1..).action(ArgAction::Append),
                Kind::List(_) => {
                    arg.action(ArgAction::Append).help(format!("{} (may be repeated)", description(property)))
                }
                Kind::Json => arg.value_name("JSON"),
                Kind::Integer { .. } | Kind::Number => arg.value_name("N").allow_negative_numbers(true),
                Kind::Text | Kind::Any => arg,
            }
        })
        .collect()
}

fn is_file(request: &str, field: &str) -> bool {
    FILE_FIELDS.contains(&(request, field))
}

/// The JSON arguments that the command line gave; absent ones are left out.
///
/// # Errors
///
/// `Invalid`: a number or JSON text that cannot be read, or an unreadable file; names the flag.
pub(crate) fn to_json(spec: &RequestSpec, matches: &ArgMatches) -> Result<Value, Error> {
    let mut out = Map::new();
    for (name, property) in properties(&spec.schema) {
        let flag = if spec.positional.contains(&name.as_str()) {
            name.to_uppercase()
        } else {
            format!("--{}", name.replace('_', "-"))
        };
        if is_file(spec.name, name) {
            if let Some(file) = matches.get_one::<String>(name) {
                let text = read_file(file)?;
                let value = match kind(&spec.schema, property) {
                    Kind::Text => Value::String(text),
                    _ => json(&flag, &text)?,
                };
                out.insert(name.clone(), value);
            }
            continue;
        }
        match kind(&spec.schema, property) {
            Kind::Flag => {
                if matches.get_flag(name) {
                    out.insert(name.clone(), Value::Bool(true));
                }
            }
            Kind::List(item) => {
                if let Some(items) = matches.get_many::<String>(name) {
                    let items =
                        items.map(|text| scalar(&flag, &item, text)).collect::<Result<Vec<_>, _>>()?;
                    // A list of any values may also be given whole, as one JSON array.
                    let whole = match items.as_slice() {
                        [Value::Array(whole)] => Some(whole.clone()),
                        _ => None,
                    };
                    out.insert(name.clone(), Value::Array(whole.unwrap_or(items)));
                }
            }
            kind => {
                if let Some(text) = matches.get_one::<String>(name) {
                    out.insert(name.clone(), scalar(&flag, &kind, text)?);
                }
            }
        }
    }
    for (name, value) in &mut out {
        if PATH_FIELDS.contains(&(spec.name, name))
            && let Some(path) = value.as_str()
        {
            let whole = std::path::absolute(path).map_err(|cause| unreadable(path, cause))?;
            *value = Value::String(whole.to_string_lossy().into_owned());
        }
    }
    if TEXT_REQUESTS.contains(&spec.name)
        && let Some(file) = out.get("file").and_then(Value::as_str)
        && !out.contains_key("text")
    {
        let text = if file == "-" {
            pm::Task::read_text(file, std::io::stdin().lock())?
        } else {
            pm::Task::read_text(file, std::fs::File::open(file).map_err(|cause| unreadable(file, cause))?)?
        };
        out.insert("text".into(), Value::String(text));
    }
    Ok(Value::Object(out))
}

fn unreadable(name: &str, cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Invalid, "cannot read the file")
        .with("file", name)
        .because(cause)
        .hint("name a readable file, or - for standard input")
}

fn scalar(flag: &str, kind: &Kind, text: &str) -> Result<Value, Error> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Invalid, format!("`{text}` is no {what}"))
            .with("flag", flag)
            .hint(format!("give {flag} a {what}"))
    };
    match kind {
        Kind::Integer { negative } => text
            .parse::<i64>()
            .ok()
            .filter(|number| *negative || *number >= 0)
            .map(Value::from)
            .ok_or_else(|| wrong(if *negative { "whole number" } else { "whole number from 0 on" })),
        Kind::Number => text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| wrong("number")),
        Kind::Json => json(flag, text),
        Kind::Any => Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))),
        Kind::Flag | Kind::Text | Kind::Choice(_) | Kind::List(_) => Ok(Value::String(text.to_owned())),
    }
}

fn json(flag: &str, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "this is no JSON")
            .with("flag", flag)
            .because(cause)
            .hint("quote it for the shell: '{\"a\": 1}'")
    })
}

fn read_file(name: &str) -> Result<String, Error> {
    use std::io::Read;
    let wrong = |cause| unreadable(name, cause);
    let mut bytes = Vec::new();
    if name == "-" {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    } else {
        let file = std::fs::File::open(Path::new(name)).map_err(wrong)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the file is too large")
            .with("file", name)
            .hint(format!("at most {} MiB are read; is this the right file?", FILE_BYTES_MAX >> 20)));
    }
    crate::files::utf8(name, bytes)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn required(schema: &Value) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn description(property: &Value) -> String {
    property
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .trim_end_matches('.')
        .replace('\n', " ")
}

/// What the field takes, through references and optional wrappers.
fn kind(schema: &Value, property: &Value) -> Kind {
    if let Some(reference) = property.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| schema.pointer(pointer));
        return target.map_or(Kind::Json, |target| kind(schema, target));
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = property.get(key).and_then(Value::as_array) {
            let choices: Vec<String> = options
                .iter()
                .filter_map(|option| option.get("const").and_then(Value::as_str))
                .map(str::to_owned)
                .collect();
            if !choices.is_empty() && choices.len() == options.len() {
                return Kind::Choice(choices);
            }
            let not_null: Vec<&Value> = options
                .iter()
                .filter(|option| option.get("type").and_then(Value::as_str) != Some("null"))
                .collect();
            if let [one] = not_null[..] {
                return kind(schema, one);
            }
            return Kind::Json;
        }
    }
    if let Some(choices) = property.get("enum").and_then(Value::as_array) {
        return Kind::Choice(choices.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    let type_name = match property.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("")
        }
        _ => "",
    };
    match type_name {
        "boolean" => Kind::Flag,
        "integer" => Kind::Integer { negative: property.get("minimum").and_then(Value::as_i64) != Some(0) },
        "number" => Kind::Number,
        "string" => Kind::Text,
        "array" => match property.get("items").map(|items| kind(schema, items)) {
            Some(item @ (Kind::Text | Kind::Integer { .. } | Kind::Number | Kind::Choice(_))) => {
                Kind::List(Box::new(item))
            }
            Some(_) if property["items"] == Value::Bool(true) => Kind::List(Box::new(Kind::Any)),
            Some(_) => Kind::Json,
            None => Kind::List(Box::new(Kind::Any)),
        },
        _ => Kind::Json,
    }
}
