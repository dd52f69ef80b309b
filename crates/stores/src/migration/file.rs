//! Migration files: their names, sections and the chain of their checksums.

use std::borrow::Cow;

use contract::{BATCH, Error, ErrorKind, sha256_hex};
use schema::Dialect;

use super::split::{Piece, split};

/// A file of `migrations/<store>/`, as the door read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationFile {
    /// Its path as errors show it, such as `migrations/orders/0001_create_orders.sql`.
    pub path: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl MigrationFile {
    /// A file with this path and content.
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: content.into() }
    }

    fn file_name(&self) -> &str {
        self.path.rsplit(['/', '\\']).next().unwrap_or(&self.path)
    }
}

/// A statement and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sql {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// Run in batches, as `-- steward: batched TABLE by COLUMN, …` before it says.
    pub(crate) batched: Option<Batched>,
}

impl Sql {
    /// A statement that is run whole.
    pub(crate) fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into(), batched: None }
    }

    /// The statement as a parser reads it: with a condition that always holds where the range of a batch will stand.
    pub(crate) fn readable(&self) -> Cow<'_, str> {
        match self.batched {
            Some(_) => Cow::Owned(self.text.replace(BATCH, "true")),
            None => Cow::Borrowed(&self.text),
        }
    }
}

/// Over which table, by which key a statement runs in batches; both as statements write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batched {
    pub(crate) table: String,
    pub(crate) key: Vec<String>,
}

impl Batched {
    fn read(words: &str) -> Option<Self> {
        let (table, key) = words.split_once(" by ")?;
        let key: Vec<String> = key.split(',').map(|column| column.trim().to_owned()).collect();
        let fits = |name: &str| !name.is_empty() && !name.contains([';', '\'', '(', ')']);
        (fits(table) && key.iter().all(|column| fits(column)))
            .then(|| Self { table: table.trim().to_owned(), key })
    }
}

/// A migration as its file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Migration {
    pub(crate) version: u64,
    /// The file's name without `.sql`.
    pub(crate) name: String,
    pub(crate) path: String,
    /// SHA-256 over the checksum before it and the content, so that each stands for all before it.
    pub(crate) checksum: String,
    pub(crate) up: Vec<Sql>,
    pub(crate) down: Option<Vec<Sql>>,
    pub(crate) irreversible: bool,
    /// All statements in one transaction.
    pub(crate) transaction: bool,
    /// The whole text of the safe form, if this is one and not what the file says.
    pub(crate) form: Option<String>,
}

/// Reads all migrations of a store, in order; files that do not end in `.sql` are left alone.
///
/// # Errors
///
/// `Invalid`, with file and where it helps the line: a name without number, a number twice, a gap, not UTF-8, an
/// unknown directive, a section without statements, a quote that does not end.
pub(crate) fn read(files: &[MigrationFile], dialect: Dialect) -> Result<Vec<Migration>, Error> {
    let mut numbered = Vec::new();
    for file in files.iter().filter(|file| has_sql_extension(file.file_name())) {
        numbered.push((version_of(file)?, file));
    }
    numbered.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.path.cmp(&b.1.path)));
    for (i, (version, file)) in numbered.iter().enumerate() {
        if i > 0 && numbered[i - 1].0 == *version {
            return Err(Error::new(ErrorKind::Invalid, format!("two migrations have the number {version}"))
                .with("file", &numbered[i - 1].1.path)
                .with("file", &file.path)
                .hint("give the one that no store has applied yet the next free number"));
        }
        let expected = i as u64 + 1;
        if *version != expected {
            return Err(Error::new(ErrorKind::Invalid, format!("migration {expected} is missing"))
                .with("file", &file.path)
                .hint("migrations are numbered 1, 2, 3 … without gaps; bring the file back or renumber"));
        }
    }
    let mut checksum = String::new();
    numbered
        .into_iter()
        .map(|(version, file)| {
            let migration = parse(version, file, dialect, &checksum)?;
            checksum.clone_from(&migration.checksum);
            Ok(migration)
        })
        .collect()
}

/// The safe form of a migration from its text; it stands for the same file.
///
/// # Errors
///
/// `Invalid`: the text is not a migration.
pub(crate) fn read_form(of: &Migration, text: &str, dialect: Dialect) -> Result<Migration, Error> {
    let file = MigrationFile::new(of.path.clone(), text);
    let form = parse(of.version, &file, dialect, "")?;
    Ok(Migration { checksum: of.checksum.clone(), form: Some(text.to_owned()), ..form })
}

/// The number that comes next.
pub(crate) fn next_version(files: &[MigrationFile]) -> Result<u64, Error> {
    let mut last = 0;
    for file in files.iter().filter(|file| has_sql_extension(file.file_name())) {
        last = last.max(version_of(file)?);
    }
    Ok(last + 1)
}

fn has_sql_extension(name: &str) -> bool {
    name.len() > 4 && name.as_bytes()[name.len() - 4..].eq_ignore_ascii_case(b".sql")
}

fn version_of(file: &MigrationFile) -> Result<u64, Error> {
    let wrong = || {
        Err(Error::new(
            ErrorKind::Invalid,
            "a migration's file name must be a number, `_`, a name and `.sql`",
        )
        .with("file", &file.path)
        .hint("such as `0001_create_orders.sql`; `steward migration new` makes the next one"))
    };
    let name = file.file_name();
    let Some((number, rest)) = name.split_once('_') else { return wrong() };
    let word = &rest[..rest.len().saturating_sub(4)];
    let fits = !word.is_empty()
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
        && number.bytes().all(|digit| digit.is_ascii_digit());
    match number.parse() {
        Ok(version @ 1..=999_999_999) if fits => Ok(version),
        _ => wrong(),
    }
}

fn parse(version: u64, file: &MigrationFile, dialect: Dialect, previous: &str) -> Result<Migration, Error> {
    let invalid = |line: usize, message: String| {
        Error::new(ErrorKind::Invalid, message).with("file", &file.path).with("line", line)
    };
    let text = std::str::from_utf8(&file.content).map_err(|error| {
        let line = String::from_utf8_lossy(&file.content[..error.valid_up_to()]).matches('\n').count() + 1;
        invalid(line, "the file is not UTF-8".into()).hint("save it as UTF-8")
    })?;
    // A checkout that turned the line ends is the same migration.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let pieces = split(&text, dialect).map_err(|error| invalid(error.line, error.message.into()))?;

    let mut migration = Migration {
        version,
        name: file.file_name()[..file.file_name().len() - 4].to_owned(),
        path: file.path.clone(),
        checksum: sha256_hex(format!("{previous}{text}").as_bytes()),
        up: Vec::new(),
        down: None,
        irreversible: false,
        transaction: true,
        form: None,
    };
    let mut up_at = None;
    let mut batched = None;
    for piece in pieces {
        match piece {
            Piece::Statement { line, text, .. } => {
                let sql = Sql { line, text, batched: batched.take() };
                if sql.batched.is_some() != sql.text.contains(BATCH) {
                    return Err(invalid(line, format!("`{BATCH}` and `-- steward: batched` belong together")).hint(
                        "write `-- steward: batched orders by id` before the statement, and in it `WHERE … AND {{batch}}`",
                    ));
                }
                migration.down.as_mut().unwrap_or(&mut migration.up).push(sql);
            }
            Piece::Directive { line, text } => match text.as_str() {
                words if words.starts_with("batched ") => {
                    batched = Batched::read(&words["batched ".len()..]);
                    if batched.is_none() {
                        return Err(invalid(line, format!("`-- steward: {words}` cannot be read"))
                            .hint("write it as `-- steward: batched orders by id`"));
                    }
                }
                "up" => {
                    if up_at.is_some() || migration.down.is_some() || !migration.up.is_empty() {
                        return Err(invalid(
                            line,
                            "`-- steward: up` must come once, before all statements".into(),
                        ));
                    }
                    up_at = Some(line);
                }
                "down" => {
                    if migration.down.replace(Vec::new()).is_some() {
                        return Err(invalid(line, "`-- steward: down` comes twice".into()));
                    }
                }
                "no-transaction" => migration.transaction = false,
                "irreversible" => migration.irreversible = true,
                // A remark to `migration lint`; changes nothing here.
                allow if allow.starts_with("allow ") => {}
                other => {
                    return Err(invalid(line, format!("unknown directive `-- steward: {other}`"))
                        .hint("there are: up, down, no-transaction, irreversible, allow"));
                }
            },
        }
    }
    if migration.up.is_empty() {
        return Err(invalid(up_at.unwrap_or(1), "the migration has no statement".into())
            .hint("write the way there under `-- steward: up`, and the way back under `-- steward: down`"));
    }
    let in_batches = |list: &[Sql]| list.iter().find(|sql| sql.batched.is_some()).map(|sql| sql.line);
    if let Some(line) = in_batches(&migration.up).filter(|_| migration.transaction) {
        return Err(invalid(line, "batches need `-- steward: no-transaction`".into())
            .hint("each batch is a transaction of its own"));
    }
    if migration.irreversible && migration.down.is_some() {
        return Err(invalid(1, "the migration says `irreversible` and has a `down` section".into()));
    }
    if migration.down.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid(1, "the `down` section has no statement".into())
            .hint("say `-- steward: irreversible` instead if there is no way back"));
    }
    Ok(migration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> MigrationFile {
        MigrationFile::new(format!("migrations/shop/{name}"), content)
    }

    #[test]
    fn sections_and_directives_are_read() {
        let files = [
            file("0002_b.sql", "-- steward: no-transaction\nSELECT 2;\n"),
            file("README.md", "not a migration"),
            file("0001_a.sql", "-- why\n-- steward: up\nSELECT 1;\n-- steward: down\nSELECT -1;\n"),
        ];
        let read = read(&files, Dialect::Sqlite).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].name, "0001_a");
        assert_eq!(read[0].up, [Sql::new(3, "SELECT 1")]);
        assert_eq!(read[0].down, Some(vec![Sql::new(5, "SELECT -1")]));
        assert!(!read[1].transaction && read[1].down.is_none());
    }

    #[test]
    fn each_checksum_stands_for_all_before_it() {
        let second = file("0002_b.sql", "SELECT 2");
        let a = read(&[file("0001_a.sql", "SELECT 1"), second.clone()], Dialect::Sqlite).unwrap();
        let b = read(&[file("0001_a.sql", "SELECT 9"), second.clone()], Dialect::Sqlite).unwrap();
        let same = read(&[file("0001_a.sql", "SELECT 1"), second], Dialect::Sqlite).unwrap();
        assert_ne!(a[1].checksum, b[1].checksum);
        assert_eq!(a[1].checksum, same[1].checksum);
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        let one = || file("0001_a.sql", "SELECT 1");
        for (files, expected) in [
            (vec![one(), file("0001_b.sql", "SELECT 1")], "two migrations have the number 1"),
            (vec![one(), file("0003_c.sql", "SELECT 1")], "migration 2 is missing"),
            (
                vec![file("create.sql", "SELECT 1")],
                "a migration's file name must be a number, `_`, a name and `.sql`",
            ),
            (
                vec![file("0001_A.sql", "SELECT 1")],
                "a migration's file name must be a number, `_`, a name and `.sql`",
            ),
            (
                vec![file("0001_a.sql", "SELECT 1;\nSELECT 'x")],
                "a string does not end\n  file: migrations/shop/0001_a.sql\n  line: 2",
            ),
            (
                vec![file("0001_a.sql", "\n-- steward: dwon\nSELECT 1")],
                "unknown directive `-- steward: dwon`\n  file: migrations/shop/0001_a.sql\n  line: 2",
            ),
            (vec![file("0001_a.sql", "-- nothing\n")], "the migration has no statement"),
            (
                vec![file("0001_a.sql", "-- steward: irreversible\nSELECT 1;\n-- steward: down\nSELECT 2")],
                "the migration says `irreversible` and has a `down` section",
            ),
            (
                vec![MigrationFile::new("m/0001_a.sql", b"SELECT 1;\n\xff".to_vec())],
                "the file is not UTF-8\n  file: m/0001_a.sql\n  line: 2",
            ),
        ] {
            let error = read(&files, Dialect::Sqlite).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
