//! Databases: inventory, queries, setup, migrations, index advice, consistency.
