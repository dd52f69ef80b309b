//! Cases of `Relational::inspect`.

use contract::{Capability, ErrorKind};
use schema::{Schema, diff};

use super::Opened;

/// Tables that both dialects understand, with everything that a schema can say of them.
const SHOP: &str = "
CREATE TABLE customers (
  id INTEGER PRIMARY KEY,
  email VARCHAR(200) NOT NULL,
  country CHAR(2) DEFAULT 'CZ',
  CONSTRAINT customers_email_key UNIQUE (email)
);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY,
  customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  total NUMERIC(10, 2) NOT NULL DEFAULT 0,
  status TEXT,
  CONSTRAINT total_not_negative CHECK (total >= 0)
);
CREATE TABLE order_lines (
  order_id INTEGER NOT NULL,
  line INTEGER NOT NULL,
  sku TEXT,
  PRIMARY KEY (order_id, line),
  FOREIGN KEY (order_id) REFERENCES orders (id)
);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE UNIQUE INDEX orders_open ON orders (customer_id, status) WHERE status = 'open';
CREATE INDEX customers_lower_email ON customers (lower(email));
CREATE VIEW open_orders AS SELECT id, total FROM orders WHERE status = 'open';
INSERT INTO customers (id, email) VALUES (1, 'a@example.org'), (2, 'b@example.org');
INSERT INTO orders (id, customer_id, status) VALUES (1, 1, 'open'), (2, 1, 'done'), (3, 2, 'open');
";

/// Identifiers that have to be quoted everywhere.
const ODD: [&str; 7] = [
    "select",
    "two words",
    "Mixed Case",
    r#"a "quoted" name"#,
    "it's; DROP TABLE victim --",
    "žluťoučký kůň 🦔",
    "[brackets] `ticks` $1 ?1 %s",
];

async fn inspect(opened: &Opened) -> Option<Schema> {
    let relational = opened.relational(Capability::Inspect).await?;
    Some(relational.inspect(&opened.ctx()).await.unwrap())
}

/// Nothing there, nothing told: no system tables, none of Steward's own.
pub async fn inspect_of_an_empty_store_is_empty(opened: &Opened) {
    let Some(schema) = inspect(opened).await else { return };
    assert!(schema.tables.is_empty() && schema.views.is_empty(), "{schema:?}");
    assert_eq!(opened.admin.steward_tables().await, Vec::<String>::new(), "looking creates nothing");
}

/// Tables, columns, keys, checks, indexes, views and counts come back as they were made.
pub async fn inspect_gives_back_what_was_created(opened: &Opened) {
    if opened.relational(Capability::Inspect).await.is_none() {
        return;
    }
    opened.admin.run(SHOP).await;
    let schema = inspect(opened).await.expect("inspect is declared");
    let names: Vec<_> = schema.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["customers", "order_lines", "orders"]);

    let customers = schema.table("customers").unwrap();
    let columns: Vec<_> = customers.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["id", "email", "country"]);
    let [id, email, country] = &customers.columns[..] else { panic!("three columns") };
    assert!(id.native_type.eq_ignore_ascii_case("integer"), "{id:?}");
    assert!(email.native_type.contains("200") && !email.nullable, "{email:?}");
    assert!(country.nullable && country.default.as_ref().unwrap().contains("'CZ'"), "{country:?}");
    assert_eq!(customers.primary_key.as_ref().unwrap().columns, ["id"]);
    assert_eq!(customers.unique_keys.len(), 1, "{customers:?}");
    assert_eq!(customers.unique_keys[0].columns, ["email"]);
    assert_eq!(customers.unique_keys[0].name, "customers_email_key");

    let orders = schema.table("orders").unwrap();
    let [key] = &orders.foreign_keys[..] else { panic!("one foreign key: {orders:?}") };
    assert_eq!((key.columns[0].as_str(), key.parent.name.as_str()), ("customer_id", "customers"));
    assert_eq!(key.parent_columns, ["id"]);
    assert!(key.actions.contains("CASCADE"), "{key:?}");
    let [check] = &orders.checks[..] else { panic!("one check: {orders:?}") };
    assert_eq!(check.name, "total_not_negative");
    assert!(check.expression.contains("total"), "{check:?}");
    let total = orders.columns.iter().find(|column| column.name == "total").unwrap();
    assert!(total.default.as_ref().unwrap().contains('0') && total.native_type.contains("10"), "{total:?}");
    assert_eq!(
        schema.table("order_lines").unwrap().primary_key.as_ref().unwrap().columns,
        ["order_id", "line"]
    );

    let index = |table: &str, name: &str| {
        let table = schema.table(table).unwrap();
        table
            .indexes
            .iter()
            .find(|index| index.name == name)
            .unwrap_or_else(|| panic!("{name} in {table:?}"))
            .clone()
    };
    let plain = index("orders", "orders_customer");
    assert_eq!((plain.columns, plain.unique, plain.valid), (vec!["customer_id".into()], false, true));
    assert!(!plain.backs_constraint && plain.predicate.is_none());
    let partial = index("orders", "orders_open");
    assert!(partial.unique && partial.predicate.as_ref().unwrap().contains("open"), "{partial:?}");
    assert!(partial.definition.contains("WHERE"), "the definition is lossless: {partial:?}");
    let expression = index("customers", "customers_lower_email");
    assert_eq!(expression.columns.len(), 1);
    assert!(expression.columns[0].contains("lower("), "{expression:?}");
    assert!(customers.indexes.iter().any(|index| index.backs_constraint && index.unique), "{customers:?}");

    let [view] = &schema.views[..] else { panic!("one view: {:?}", schema.views) };
    assert_eq!(view.name.name, "open_orders");
    assert!(view.definition.contains("orders") && !view.materialized, "{view:?}");
    if !orders.rows_estimated {
        assert_eq!(orders.rows, 3);
    }
}

/// Names with quotes, spaces, keywords and other scripts come back byte for byte.
pub async fn inspect_keeps_odd_identifiers(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Inspect).await else { return };
    for name in ODD {
        let quoted = relational.quote_identifier(name);
        let index = relational.quote_identifier(&format!("{name} index"));
        let sql = format!(
            "CREATE TABLE {quoted} ({quoted} INTEGER PRIMARY KEY, \"other\" TEXT); \
             CREATE INDEX {index} ON {quoted} ({quoted}, \"other\");"
        );
        opened.admin.run(&sql).await;
    }
    let schema = inspect(opened).await.expect("inspect is declared");
    assert_eq!(schema.tables.len(), ODD.len(), "{schema:?}");
    for name in ODD {
        let table = schema.tables.iter().find(|table| table.name.name == name);
        let table = table.unwrap_or_else(|| panic!("{name} in {schema:?}"));
        assert_eq!(table.columns[0].name, name);
        assert_eq!(table.primary_key.as_ref().unwrap().columns, [name]);
        let index = table.indexes.iter().find(|index| !index.backs_constraint).unwrap();
        assert_eq!(index.name, format!("{name} index"));
    }
}

/// The order of the catalog does not show: two looks at one store, and two handles, say the same.
pub async fn inspect_of_equal_stores_is_equal(opened: &Opened) {
    if opened.relational(Capability::Inspect).await.is_none() {
        return;
    }
    opened.admin.run(SHOP).await;
    let first = inspect(opened).await.expect("inspect is declared");
    let other = opened.admin.reopen().await;
    let second = other.relational().unwrap().inspect(&opened.ctx()).await.unwrap();
    assert_eq!(diff(&first, &second), []);
    assert_eq!(first.structure(), second.structure());
    opened.admin.run("CREATE INDEX orders_status ON orders (status)").await;
    let third = inspect(opened).await.expect("inspect is declared");
    let differences = diff(&first, &third);
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert_eq!(differences[0].object, "orders.orders_status");
}

/// A canceled look reports `Canceled`.
pub async fn inspect_canceled_reports_canceled(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Inspect).await else { return };
    let ctx = opened.ctx();
    ctx.cancellation().cancel();
    let error = opened.soon(relational.inspect(&ctx)).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Canceled]);
}
