//! Tables as sets of rows: hashes and sums of the canonical encoding, computed by the server.

use async_trait::async_trait;
use contract::{
    ColumnKind, Context, Error, ErrorKind, Form, KeyRange, RangeDigest, RowChoice, RowEntry, RowHash, RowKey,
    RowSet, RowSetColumn, RowSetField, RowSetSpec, RowSetTable, RowSets, RowTraffic,
};
use tokio_postgres::Row;

use crate::error::translate;
use crate::statement::{quote_identifier, quote_literal};
use crate::store::{CATALOG_TIMEOUT, Next, PostgresStore, Reading, View, milliseconds};

/// What `hashtextextended('Steward', 0)` answers where the server computes it as every little-endian one does.
const HASH_SAMPLE: i64 = 5_899_731_808_360_570_942;
/// Arguments of one `concat`; a function takes at most 100.
const CONCAT_ARGUMENTS_MAX: usize = 90;
/// Ranges or keys that one statement asks about.
const ASKED_MAX: usize = 200;
/// Keys that one statement looks up.
const KEYS_MAX: usize = 1_000;
/// Keys that are sampled for each quantile, so that parts are of about the same size.
const SAMPLED_PER_PART: usize = 8;

struct Described {
    table: RowSetTable,
    quoted: String,
    can_sample: bool,
    columns: Vec<Column>,
    /// Columns of each B-tree index that covers all rows.
    indexes: Vec<Vec<String>>,
}

struct Column {
    name: String,
    base: String,
    native_type: String,
    not_null: bool,
    by_bytes: bool,
    kind: ColumnKind,
}

fn kind(base: &str, is_enum: bool, native_type: &str) -> ColumnKind {
    match base {
        "bool" => ColumnKind::Boolean,
        "int2" | "int4" | "int8" | "oid" => ColumnKind::Integer,
        "numeric" | "money" => ColumnKind::Decimal,
        "float4" => ColumnKind::Float32,
        "float8" => ColumnKind::Float64,
        "text" | "varchar" | "bpchar" | "name" | "citext" => ColumnKind::Text,
        "bytea" => ColumnKind::Bytes,
        "timestamp" => ColumnKind::Timestamp,
        "timestamptz" => ColumnKind::TimestampUtc,
        "date" => ColumnKind::Date,
        "time" => ColumnKind::Time,
        "json" | "jsonb" => ColumnKind::Json,
        "uuid" => ColumnKind::Uuid,
        _ if is_enum => ColumnKind::Text,
        _ => ColumnKind::Other(native_type.to_owned()),
    }
}

async fn describe(reading: &Reading, name: &str) -> Result<Described, Error> {
    let client = &reading.session().client;
    let failed = |error: tokio_postgres::Error| translate(&error);
    let found =
        client.query_opt(include_str!("sql/rowset_table.sql"), &[&name]).await.map_err(failed)?.ok_or_else(
            || {
                Error::new(ErrorKind::NotFound, format!("there is no table or view `{name}`"))
                    .hint("`steward store inspect NAME` lists them; the login must be allowed to read it")
            },
        )?;
    let oid: u32 = found.get("oid");
    let (namespace, table): (String, String) = (found.get("namespace"), found.get("name"));
    let mut columns = Vec::new();
    for row in client.query(include_str!("sql/rowset_columns.sql"), &[&oid]).await.map_err(failed)? {
        let (base, native_type): (String, String) = (row.get("base"), row.get("native_type"));
        let kind = kind(&base, row.get("is_enum"), &native_type);
        columns.push(Column {
            name: row.get("name"),
            kind,
            base,
            native_type,
            not_null: row.get("not_null"),
            by_bytes: row.get("by_bytes"),
        });
    }
    let (mut key, mut indexes) = (Vec::new(), Vec::new());
    for row in client.query(include_str!("sql/rowset_keys.sql"), &[&oid]).await.map_err(failed)? {
        let of_index: Vec<String> = row.get("columns");
        if key.is_empty() && row.get("is_key") {
            key.clone_from(&of_index);
        }
        indexes.push(of_index);
    }
    let encoding: String = found.get("encoding");
    let hashes = match encoding.as_str() {
        "UTF8" if found.get::<_, i64>("hash_sample") == HASH_SAMPLE => vec![RowHash::Fast, RowHash::Md5],
        // Nothing says what the bytes of its texts mean.
        "SQL_ASCII" => Vec::new(),
        _ => vec![RowHash::Md5],
    };
    let rows: i64 = found.get("rows_estimated");
    let can_sample: bool = found.get("can_sample");
    Ok(Described {
        quoted: format!("{}.{}", quote_identifier(&namespace), quote_identifier(&table)),
        table: RowSetTable {
            name: format!("{namespace}.{table}"),
            columns: columns
                .iter()
                .map(|column| RowSetColumn {
                    name: column.name.clone(),
                    native_type: column.native_type.clone(),
                    nullable: !column.not_null,
                    kind: column.kind.clone(),
                })
                .collect(),
            key,
            rows_estimated: u64::try_from(rows).unwrap_or(0),
            hashes,
            samples: can_sample,
        },
        can_sample,
        columns,
        indexes,
    })
}

/// The arguments of `concat` that write a column's value; NULL writes nothing, or only the colon.
fn encoded(column: &Column, form: Form) -> Result<Vec<String>, Error> {
    let quoted = quote_identifier(&column.name);
    let is = |bases: &[&str]| bases.contains(&column.base.as_str());
    let refused = || {
        Error::new(ErrorKind::Invalid, format!("`{}` cannot be compared as {form:?}", column.name))
            .with("type", &column.native_type)
    };
    let number = is(&["int2", "int4", "int8", "oid"]);
    let with_length = |text: String| vec![format!("octet_length({text})"), "':'".to_owned(), text];
    Ok(match form {
        Form::Boolean if is(&["bool"]) => vec![quoted],
        Form::Integer | Form::Decimal if number => vec![quoted],
        Form::Decimal if is(&["numeric"]) => vec![format!("trim_scale({quoted})")],
        Form::Decimal if is(&["money"]) => vec![format!("trim_scale({quoted}::numeric)")],
        // The shortest text, not the 15 digits that a direct cast keeps.
        Form::Decimal if is(&["float4", "float8"]) => vec![format!("trim_scale({quoted}::text::numeric)")],
        // Adding zero makes one of both zeros.
        Form::Float64 if is(&["float8"]) => vec![format!("encode(float8send({quoted} + 0::float8), 'hex')")],
        Form::Float32 if is(&["float4"]) => vec![format!("encode(float4send({quoted} + 0::float4), 'hex')")],
        Form::Float32 if is(&["float8"]) => vec![format!(
            "CASE WHEN {quoted} = 0 OR {quoted} = 'NaN' OR abs({quoted}) = 'Infinity' \
             OR abs({quoted}) BETWEEN 1.4012984643248171e-45 AND 3.4028234663852886e38 \
             THEN encode(float4send({quoted}::float4 + 0::float4), 'hex') ELSE encode(float8send({quoted}), 'hex') END"
        )],
        Form::Text if is(&["text", "varchar"]) => with_length(quoted),
        Form::Text => with_length(format!("{quoted}::text")),
        Form::Bytes if is(&["bytea"]) => with_length(format!("encode({quoted}, 'hex')")),
        Form::Json if is(&["jsonb"]) => with_length(format!("{quoted}::text")),
        Form::Json if is(&["json"]) => with_length(format!("{quoted}::jsonb::text")),
        Form::Timestamp if is(&["timestamp"]) => vec![quoted],
        // The session's zone is UTC.
        Form::Timestamp if is(&["timestamptz"]) => vec![format!("{quoted}::timestamp")],
        Form::Date if is(&["date"]) => vec![quoted],
        Form::Time if is(&["time"]) => vec![quoted],
        Form::Uuid if is(&["uuid"]) => vec![quoted],
        _ => return Err(refused()),
    })
}

/// A column of the key as statements need it.
struct KeyColumn {
    /// Ordered as all stores order it.
    ordered: String,
    /// The encoded value.
    text: String,
    /// The type of its literals.
    cast: String,
    form: Form,
    /// All values take the same space, so that an array of them can be searched by halves.
    fixed: bool,
    nullable: bool,
}

impl KeyColumn {
    fn new(column: &Column, field: &RowSetField) -> Result<Self, Error> {
        encoded(column, field.form)?;
        let quoted = quote_identifier(&column.name);
        let (ordered, cast) = match field.form {
            Form::Text if matches!(column.base.as_str(), "text" | "varchar") && column.by_bytes => {
                (quoted.clone(), "text".to_owned())
            }
            Form::Text if matches!(column.base.as_str(), "text" | "varchar") => {
                (format!("{quoted} COLLATE \"C\""), "text".to_owned())
            }
            Form::Text => (format!("{quoted}::text COLLATE \"C\""), "text".to_owned()),
            _ => (quoted.clone(), format!("pg_catalog.{}", quote_identifier(&column.base))),
        };
        let text = match (field.form, column.base.as_str()) {
            (Form::Bytes, _) => format!("encode({quoted}, 'hex')"),
            (Form::Timestamp, "timestamptz") => format!("{quoted}::timestamp::text"),
            (Form::Boolean, _) => format!("CASE WHEN {quoted} THEN 't' ELSE 'f' END"),
            _ => format!("{quoted}::text"),
        };
        Ok(Self {
            ordered,
            text,
            cast,
            form: field.form,
            fixed: !matches!(field.form, Form::Text | Form::Bytes),
            nullable: !column.not_null,
        })
    }

    /// The value as the server reads it.
    fn value(&self, encoded: &str) -> String {
        match self.form {
            Form::Bytes => format!("\\x{encoded}"),
            _ => encoded.to_owned(),
        }
    }

    fn literal(&self, encoded: &str) -> String {
        let collation = if self.form == Form::Text { " COLLATE \"C\"" } else { "" };
        let collation = if self.ordered.ends_with("COLLATE \"C\"") { collation } else { "" };
        format!("{}::{}{collation}", quote_literal(&self.value(encoded)), self.cast)
    }
}

struct PostgresRows<'a> {
    store: &'a PostgresStore,
    reading: Option<Reading>,
    from: String,
    sampled_from: Option<String>,
    /// The condition on all statements: a whole key, and the filter.
    condition: String,
    filter: String,
    key: Vec<KeyColumn>,
    /// Encoded values of the columns, each an expression.
    values: Vec<String>,
    /// Hash expressions over the alias `row_text`, or over the row itself.
    hash: RowHash,
    row_text: String,
    /// An index gives the keys in their order.
    indexed: bool,
    /// Whether the planner may read tables from end to end now.
    may_scan: bool,
    rows_estimated: u64,
    traffic: RowTraffic,
}

#[async_trait]
impl RowSets for PostgresStore {
    async fn describe(&self, ctx: &Context, table: &str) -> Result<RowSetTable, Error> {
        let reading = self.within(ctx, self.begin_reading(ctx, CATALOG_TIMEOUT, View::Frozen)).await?;
        let described = self.within(ctx, describe(&reading, table)).await;
        self.end_reading(reading, Next::after(&described)).await;
        described.map(|described| described.table)
    }

    async fn open_rows<'a>(
        &'a self,
        ctx: &Context,
        spec: &RowSetSpec,
    ) -> Result<Box<dyn RowSet + 'a>, Error> {
        let reading = self.within(ctx, self.begin_reading(ctx, spec.statement_timeout, View::Frozen)).await?;
        let opened = self
            .within(ctx, async {
                self.refuse_powerful_login(reading.session())?;
                prepare(&reading, spec).await
            })
            .await;
        match opened {
            Ok(prepared) => {
                let described = prepared.described;
                Ok(Box::new(PostgresRows {
                    store: self,
                    reading: Some(reading),
                    sampled_from: described
                        .can_sample
                        .then(|| format!("{} TABLESAMPLE BERNOULLI", described.quoted)),
                    from: described.quoted,
                    condition: prepared.condition,
                    filter: prepared.filter,
                    indexed: prepared.indexed,
                    key: prepared.key,
                    values: prepared.values,
                    hash: spec.hash,
                    row_text: prepared.row_text,
                    may_scan: true,
                    rows_estimated: described.table.rows_estimated,
                    traffic: RowTraffic::default(),
                }))
            }
            Err(error) => {
                let answer = Err(error);
                self.end_reading(reading, Next::after(&answer)).await;
                answer
            }
        }
    }
}

struct Prepared {
    described: Described,
    key: Vec<KeyColumn>,
    values: Vec<String>,
    row_text: String,
    condition: String,
    filter: String,
    indexed: bool,
}

async fn prepare(reading: &Reading, spec: &RowSetSpec) -> Result<Prepared, Error> {
    // Texts in one form, and no machine code for expressions of thousands of steps: compiling them takes longer
    // than running them. The snapshot may have to wait for the other side.
    let settings = format!(
        "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 1; \
         SET LOCAL bytea_output = 'hex'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL jit = off; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        milliseconds(spec.statement_timeout.saturating_mul(4))
    );
    let client = &reading.session().client;
    client.batch_execute(&settings).await.map_err(|error| translate(&error))?;
    let described = describe(reading, &spec.table).await?;
    let column = |name: &str| {
        described.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<&str> = described.columns.iter().map(|column| column.name.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("`{}` has no column `{name}`", described.table.name))
                .hint(format!("it has: {}", names.join(", ")))
        })
    };
    if !described.table.hashes.contains(&spec.hash) {
        return Err(Error::new(ErrorKind::Unsupported, "this server cannot hash rows in this way")
            .with("hash", format!("{:?}", spec.hash).to_lowercase())
            .hint("ask with `--hash md5`"));
    }
    let mut key = Vec::new();
    for field in &spec.key {
        key.push(KeyColumn::new(column(&field.column)?, field)?);
    }
    let (mut arguments, mut values) = (Vec::new(), Vec::new());
    for (i, field) in spec.key.iter().chain(&spec.columns).enumerate() {
        let of_column = encoded(column(&field.column)?, field.form)?;
        if i >= spec.key.len() {
            values.push(format!("concat({})", of_column.join(", ")));
        }
        arguments.extend(of_column);
        arguments.push("';'".to_owned());
    }
    let parts: Vec<String> =
        arguments.chunks(CONCAT_ARGUMENTS_MAX).map(|part| format!("concat({})", part.join(", "))).collect();
    let row_text = parts.join(" || ");
    let names: Vec<&String> = spec.key.iter().map(|field| &field.column).collect();
    let in_order = described
        .indexes
        .iter()
        .any(|index| index.len() >= names.len() && index.iter().zip(&names).all(|(a, b)| a == *b));
    // An index of another collation has another order.
    let indexed = in_order && key.iter().all(|column| !column.ordered.contains("COLLATE"));
    let filter = spec.filter.as_ref().map_or_else(String::new, |filter| format!(" AND ({filter}\n)"));
    let whole: Vec<String> = spec
        .key
        .iter()
        .zip(&key)
        .filter(|(_, key)| key.nullable)
        .map(|(field, _)| format!(" AND {} IS NOT NULL", quote_identifier(&field.column)))
        .collect();
    let condition = format!("true{}{filter}", whole.concat());
    Ok(Prepared { described, key, values, row_text, condition, filter, indexed })
}

impl PostgresRows<'_> {
    async fn ask(&mut self, ctx: &Context, sql: &str) -> Result<Vec<Row>, Error> {
        let reading = self.reading.as_ref().expect("taken only when the set is closed");
        let client = &reading.session().client;
        let rows = self
            .store
            .within(ctx, async { client.query(sql, &[]).await.map_err(|error| translate(&error)) })
            .await?;
        self.traffic.statements += 1;
        self.traffic.bytes += rows.iter().map(Row::raw_size_bytes).sum::<usize>() as u64;
        Ok(rows)
    }

    /// Lets the planner read the table from end to end, or makes it use the index whatever stale statistics say.
    async fn scan(&mut self, ctx: &Context, may: bool) -> Result<(), Error> {
        if self.may_scan != may {
            let reading = self.reading.as_ref().expect("taken only when the set is closed");
            let set = format!("SET LOCAL enable_seqscan = {}", if may { "on" } else { "off" });
            let client = &reading.session().client;
            self.store
                .within(ctx, async { client.batch_execute(&set).await.map_err(|error| translate(&error)) })
                .await?;
            self.may_scan = may;
        }
        Ok(())
    }

    fn ordered(&self) -> String {
        self.key.iter().map(|key| key.ordered.clone()).collect::<Vec<_>>().join(", ")
    }

    fn texts(&self) -> String {
        let texts: Vec<String> =
            self.key.iter().enumerate().map(|(i, key)| format!("{} AS k{i}", key.text)).collect();
        texts.join(", ")
    }

    fn key_names(&self) -> String {
        (0..self.key.len()).map(|i| format!("k{i}")).collect::<Vec<_>>().join(", ")
    }

    fn compare(&self, operator: &str, bound: &RowKey) -> String {
        let literals: Vec<String> =
            self.key.iter().zip(bound).map(|(key, value)| key.literal(value)).collect();
        format!("({}) {operator} ({})", self.ordered(), literals.join(", "))
    }

    fn within_range(&self, range: &KeyRange) -> String {
        let from = range.from.as_ref().map(|from| format!(" AND {}", self.compare(">=", from)));
        let to = range.to.as_ref().map(|to| format!(" AND {}", self.compare("<", to)));
        format!("{}{}{}", self.condition, from.unwrap_or_default(), to.unwrap_or_default())
    }

    /// An expression that gives the number of bounds that are not above the row's key.
    fn bucket(&self, bounds: &[&RowKey]) -> String {
        match self.key.as_slice() {
            _ if bounds.is_empty() => "0".to_owned(),
            [key] if key.fixed => {
                let values: Vec<String> =
                    bounds.iter().map(|bound| format!("\"{}\"", key.value(&bound[0]))).collect();
                format!(
                    "width_bucket({}, {}::{}[])",
                    key.ordered,
                    quote_literal(&format!("{{{}}}", values.join(","))),
                    key.cast
                )
            }
            _ => self.decision(bounds, 0),
        }
    }

    fn decision(&self, bounds: &[&RowKey], before: usize) -> String {
        let middle = bounds.len() / 2;
        match bounds.get(middle) {
            None => before.to_string(),
            Some(bound) => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.compare("<", bound),
                self.decision(&bounds[..middle], before),
                self.decision(&bounds[middle + 1..], before + middle + 1)
            ),
        }
    }

    /// The sums over `from`, which has the row's text as it is or as the alias `row_text`.
    fn sums(&self) -> (&'static str, String) {
        match self.hash {
            RowHash::Fast => (
                "count(*), COALESCE(sum(h0), 0)::text, '0'",
                format!("hashtextextended(({}) COLLATE \"C\", 0) AS h0, 0::bigint AS h1", self.row_text),
            ),
            RowHash::Md5 => (
                "count(*), COALESCE(sum(('x' || left(h0, 16))::bit(64)::bigint), 0)::text, \
                 COALESCE(sum(('x' || right(h0, 16))::bit(64)::bigint), 0)::text",
                format!("md5(convert_to({}, 'UTF8')) AS h0", self.row_text),
            ),
        }
    }

    /// Both halves of the hash of one row, as columns.
    fn halves(&self) -> &'static str {
        match self.hash {
            RowHash::Fast => "h0, h1",
            RowHash::Md5 => "('x' || left(h0, 16))::bit(64)::bigint, ('x' || right(h0, 16))::bit(64)::bigint",
        }
    }

    fn key_of(&self, row: &Row, first: usize) -> RowKey {
        (0..self.key.len()).map(|i| row.get(first + i)).collect()
    }

    fn entries_of(&mut self, rows: &[Row]) -> Vec<RowEntry> {
        self.traffic.rows += rows.len() as u64;
        let keys = self.key.len();
        rows.iter()
            .map(|row| RowEntry { key: self.key_of(row, 0), hash: [row.get(keys), row.get(keys + 1)] })
            .collect()
    }

    fn keys_condition(&self, keys: &[RowKey]) -> String {
        if let [key] = self.key.as_slice() {
            let literals: Vec<String> = keys.iter().map(|value| key.literal(&value[0])).collect();
            return format!("{} AND {} IN ({})", self.condition, key.ordered, literals.join(", "));
        }
        let tuples: Vec<String> = keys
            .iter()
            .map(|value| {
                let parts: Vec<String> =
                    self.key.iter().zip(value).map(|(key, part)| key.literal(part)).collect();
                format!("({})", parts.join(", "))
            })
            .collect();
        format!("{} AND ({}) IN ({})", self.condition, self.ordered(), tuples.join(", "))
    }
}

/// Whether the ranges hold every key.
fn cover_all(ranges: &[KeyRange]) -> bool {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return false };
    first.from.is_none()
        && last.to.is_none()
        && ranges.windows(2).all(|pair| pair[0].to.is_some() && pair[0].to == pair[1].from)
}

/// The bounds of ordered ranges, and for each place between two bounds the range that lies there.
fn places(ranges: &[KeyRange]) -> (Vec<&RowKey>, Vec<Option<usize>>) {
    let (mut bounds, mut places): (Vec<&RowKey>, Vec<Option<usize>>) = (Vec::new(), vec![None]);
    for (i, range) in ranges.iter().enumerate() {
        if let Some(from) = &range.from
            && bounds.last() != Some(&from)
        {
            bounds.push(from);
            places.push(None);
        }
        *places.last_mut().expect("begins with one") = Some(i);
        if let Some(to) = &range.to {
            bounds.push(to);
            places.push(None);
        }
    }
    (bounds, places)
}

#[async_trait]
impl RowSet for PostgresRows<'_> {
    async fn keyless(&mut self, ctx: &Context) -> Result<u64, Error> {
        let nullable: Vec<String> = self
            .key
            .iter()
            .filter(|key| key.nullable)
            .map(|key| format!("{} IS NULL", key.ordered))
            .collect();
        if nullable.is_empty() {
            return Ok(0);
        }
        self.scan(ctx, true).await?;
        let sql =
            format!("SELECT count(*) FROM {} WHERE ({}){}", self.from, nullable.join(" OR "), self.filter);
        let rows = self.ask(ctx, &sql).await?;
        Ok(unsigned(rows[0].get(0)))
    }

    async fn quantiles(&mut self, ctx: &Context, parts: usize) -> Result<Vec<RowKey>, Error> {
        self.scan(ctx, true).await?;
        let wanted = u32::try_from(parts.saturating_mul(SAMPLED_PER_PART)).unwrap_or(u32::MAX);
        #[allow(clippy::cast_precision_loss, reason = "a share of rows that are estimated anyway")]
        let percent = 100.0 * f64::from(wanted) / (self.rows_estimated.max(1) as f64);
        let from = match &self.sampled_from {
            Some(sampled) if percent < 50.0 => format!("{sampled} ({percent}) REPEATABLE (0)"),
            _ => self.from.clone(),
        };
        let (texts, order, names) = (self.texts(), self.ordered(), self.key_names());
        let sql = format!(
            "SELECT {names} FROM (SELECT {texts}, row_number() OVER (ORDER BY {order}) AS n, count(*) OVER () AS c \
             FROM {from} WHERE {}) AS s WHERE n > 1 AND (n - 1) % GREATEST(1, (c + {parts} - 1) / {parts}) = 0 ORDER BY n",
            self.condition
        );
        let rows = self.ask(ctx, &sql).await?;
        let mut keys: Vec<RowKey> = rows.iter().map(|row| self.key_of(row, 0)).collect();
        keys.dedup();
        Ok(keys)
    }

    async fn cuts(&mut self, ctx: &Context, ranges: &[(KeyRange, u64)]) -> Result<Vec<Vec<RowKey>>, Error> {
        let mut out = vec![Vec::new(); ranges.len()];
        let (texts, order, names) = (self.texts(), self.ordered(), self.key_names());
        let mut asked = Vec::new();
        self.scan(ctx, !self.indexed).await?;
        if self.indexed {
            for (first, chunk) in ranges.chunks(ASKED_MAX).enumerate() {
                let selects: Vec<String> = chunk
                    .iter()
                    .enumerate()
                    .map(|(i, (range, step))| {
                        format!(
                            "SELECT {} AS i, n, {names} FROM (SELECT {texts}, row_number() OVER (ORDER BY {order}) AS n \
                             FROM {} WHERE {}) AS s WHERE n > 1 AND (n - 1) % {} = 0",
                            first * ASKED_MAX + i,
                            self.from,
                            self.within_range(range),
                            step.max(&1)
                        )
                    })
                    .collect();
                asked.extend(self.ask(ctx, &format!("{} ORDER BY i, n", selects.join(" UNION ALL "))).await?);
            }
        } else {
            let only: Vec<KeyRange> = ranges.iter().map(|(range, _)| range.clone()).collect();
            let (bounds, places) = places(&only);
            let mut steps = vec!["0".to_owned(); places.len()];
            for (place, range) in places.iter().enumerate() {
                if let Some(range) = range {
                    steps[place] = ranges[*range].1.max(1).to_string();
                }
            }
            let sql = format!(
                "SELECT b AS i, n, {names} FROM (SELECT {names}, b, row_number() OVER (PARTITION BY b ORDER BY {order_names}) AS n \
                 FROM (SELECT {texts}, {ordered_as}, {} AS b FROM {} WHERE {}) AS t WHERE ('{{{steps}}}'::bigint[])[b + 1] > 0) AS s \
                 WHERE n > 1 AND (n - 1) % ('{{{steps}}}'::bigint[])[b + 1] = 0 ORDER BY b, n",
                self.bucket(&bounds),
                self.from,
                self.condition,
                steps = steps.join(","),
                order_names = (0..self.key.len()).map(|i| format!("o{i}")).collect::<Vec<_>>().join(", "),
                ordered_as = self
                    .key
                    .iter()
                    .enumerate()
                    .map(|(i, key)| format!("{} AS o{i}", key.ordered))
                    .collect::<Vec<_>>()
                    .join(", "),
            );
            for row in self.ask(ctx, &sql).await? {
                let place = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
                if let Some(Some(range)) = places.get(place) {
                    let key = self.key_of(&row, 2);
                    out[*range].push(key);
                }
            }
        }
        for row in asked {
            let range = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
            let key = self.key_of(&row, 2);
            out[range].push(key);
        }
        for (keys, (range, _)) in out.iter_mut().zip(ranges) {
            keys.dedup();
            keys.retain(|key| range.from.as_ref() != Some(key));
        }
        Ok(out)
    }

    async fn digests(&mut self, ctx: &Context, ranges: &[KeyRange]) -> Result<Vec<RangeDigest>, Error> {
        let mut out = vec![RangeDigest::default(); ranges.len()];
        let (sums, hashed) = self.sums();
        // The text of a row is written once: OFFSET 0 keeps the planner from writing it into each of two sums.
        let fence = if self.hash == RowHash::Md5 { " OFFSET 0" } else { "" };
        let mut answers: Vec<(usize, Row)> = Vec::new();
        if cover_all(ranges) || !self.indexed {
            self.scan(ctx, true).await?;
            let (bounds, places) = places(ranges);
            let wanted: Vec<String> = places
                .iter()
                .enumerate()
                .filter(|(_, range)| range.is_some())
                .map(|(place, _)| place.to_string())
                .collect();
            let only = if wanted.len() == places.len() {
                String::new()
            } else {
                format!(" WHERE b = ANY ('{{{}}}'::int[])", wanted.join(","))
            };
            let sql = format!(
                "SELECT b, {sums} FROM (SELECT {} AS b, {hashed} FROM {} WHERE {}{fence}) AS t{only} GROUP BY b",
                self.bucket(&bounds),
                self.from,
                self.condition
            );
            for row in self.ask(ctx, &sql).await? {
                let place = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
                if let Some(Some(range)) = places.get(place) {
                    answers.push((*range, row));
                }
            }
        } else {
            self.scan(ctx, false).await?;
            for (first, chunk) in ranges.chunks(ASKED_MAX).enumerate() {
                let selects: Vec<String> = chunk
                    .iter()
                    .enumerate()
                    .map(|(i, range)| {
                        format!(
                            "SELECT {} AS i, {sums} FROM (SELECT {hashed} FROM {} WHERE {}{fence}) AS t",
                            first * ASKED_MAX + i,
                            self.from,
                            self.within_range(range)
                        )
                    })
                    .collect();
                for row in self.ask(ctx, &selects.join(" UNION ALL ")).await? {
                    answers.push((usize::try_from(row.get::<_, i32>(0)).unwrap_or(0), row));
                }
            }
        }
        self.traffic.digests += answers.len() as u64;
        for (range, row) in answers {
            out[range] =
                RangeDigest { rows: unsigned(row.get(1)), sums: [sum(row.get(2))?, sum(row.get(3))?] };
        }
        Ok(out)
    }

    async fn entries(&mut self, ctx: &Context, choice: RowChoice<'_>) -> Result<Vec<RowEntry>, Error> {
        let (_, hashed) = self.sums();
        let (names, texts, halves) = (self.key_names(), self.texts(), self.halves());
        let mut conditions = Vec::new();
        match choice {
            RowChoice::Keys(keys) => {
                self.scan(ctx, !self.indexed).await?;
                conditions.extend(keys.chunks(KEYS_MAX).map(|keys| self.keys_condition(keys)));
            }
            RowChoice::Ranges(ranges) if self.indexed => {
                self.scan(ctx, false).await?;
                let select = |range: &KeyRange| {
                    format!("SELECT {texts}, {hashed} FROM {} WHERE {}", self.from, self.within_range(range))
                };
                let mut entries = Vec::new();
                let statements: Vec<String> = ranges
                    .chunks(ASKED_MAX)
                    .map(|chunk| {
                        let selects: Vec<String> = chunk.iter().map(select).collect();
                        format!("SELECT {names}, {halves} FROM ({}) AS t", selects.join(" UNION ALL "))
                    })
                    .collect();
                for statement in statements {
                    let rows = self.ask(ctx, &statement).await?;
                    entries.extend(self.entries_of(&rows));
                }
                return Ok(entries);
            }
            RowChoice::Ranges(ranges) => {
                self.scan(ctx, true).await?;
                let (bounds, places) = places(ranges);
                let wanted: Vec<String> = places
                    .iter()
                    .enumerate()
                    .filter(|(_, range)| range.is_some())
                    .map(|(place, _)| place.to_string())
                    .collect();
                conditions.push(format!(
                    "{} AND {} = ANY ('{{{}}}'::int[])",
                    self.condition,
                    self.bucket(&bounds),
                    wanted.join(",")
                ));
            }
        }
        let mut entries = Vec::new();
        for condition in conditions {
            let sql = format!(
                "SELECT {names}, {halves} FROM (SELECT {texts}, {hashed} FROM {} WHERE {condition}) AS t",
                self.from
            );
            let rows = self.ask(ctx, &sql).await?;
            entries.extend(self.entries_of(&rows));
        }
        Ok(entries)
    }

    async fn rows(&mut self, ctx: &Context, keys: &[RowKey]) -> Result<Vec<(RowKey, Vec<String>)>, Error> {
        self.scan(ctx, !self.indexed).await?;
        let mut out = Vec::new();
        for keys in keys.chunks(KEYS_MAX) {
            let values: Vec<String> = std::iter::once(self.texts()).chain(self.values.clone()).collect();
            let sql = format!(
                "SELECT {} FROM {} WHERE {}",
                values.join(", "),
                self.from,
                self.keys_condition(keys)
            );
            let rows = self.ask(ctx, &sql).await?;
            self.traffic.rows += rows.len() as u64;
            for row in rows {
                let first = self.key.len();
                let values = (0..self.values.len()).map(|i| row.get(first + i)).collect();
                out.push((self.key_of(&row, 0), values));
            }
        }
        Ok(out)
    }

    fn statement(&self) -> String {
        let (sums, hashed) = self.sums();
        format!("SELECT {sums} FROM (SELECT {hashed} FROM {} WHERE {}) AS t", self.from, self.condition)
    }

    fn traffic(&self) -> RowTraffic {
        self.traffic
    }

    async fn close(mut self: Box<Self>) {
        if let Some(reading) = self.reading.take() {
            self.store.end_reading(reading, Next::Keep).await;
        }
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn sum(text: &str) -> Result<i128, Error> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        Error::new(ErrorKind::Corrupt, "the server answered a sum that is no number").because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_between_bounds() {
        let key = |text: &str| Some(vec![text.to_owned()]);
        let range = |from: Option<RowKey>, to: Option<RowKey>| KeyRange { from, to };
        let all = [range(None, key("a")), range(key("a"), key("b")), range(key("b"), None)];
        assert!(cover_all(&all));
        assert_eq!(places(&all).1, [Some(0), Some(1), Some(2)]);
        let some = [range(key("a"), key("b")), range(key("c"), key("d")), range(key("d"), None)];
        assert!(!cover_all(&some));
        let (bounds, between) = places(&some);
        assert_eq!(bounds.len(), 4);
        assert_eq!(between, [None, Some(0), None, Some(1), Some(2)]);
    }
}
