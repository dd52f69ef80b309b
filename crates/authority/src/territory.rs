//! Whose file a path is.
//!
//! The mission divides writing between agents; this table says which path lies in whose territory, and the policies in
//! `policies/territories.cedar` decide on it. Paths are relative to the project, with `/`. They are compared without
//! regard to case. The first rule that matches decides, so the order is part of the table:
//!
//! | order | territory | paths |
//! | --- | --- | --- |
//! | 1 | `system_configuration` | absolute paths below `/etc`, `/usr`, `/lib`, `/boot`, `/opt`, `/var`, `/root` … |
//! | 2 | `outside` | any other absolute path, `..`, `~`, a drive letter, a NUL, nothing at all |
//! | 3 | `steward_state` | `.steward/` |
//! | 4 | `policies` | `policies/`, `*.cedar`, `*.cedarschema` |
//! | 5 | `tests` | a folder `test`, `tests`, `__tests__`, `spec`, `e2e`, `fixtures`, `testdata` …; `test_*`, `*_test.*`, `*.test.*`, `*.spec.*`, `*Test.java`, `conftest.py` |
//! | 6 | `system_configuration` | a folder `.github`, `terraform`, `k8s`, `helm`, `ansible`, `systemd`, `nginx`, `deploy`, `infra` …; Dockerfile, compose, CI files, Makefile, `.env`; `*.tf`, `*.service`, `*.timer` … |
//! | 7 | `documentation` | a folder `docs`, `doc`, `wiki` …; README, CHANGELOG, CONTRIBUTING, LICENSE …; `*.md`, `*.rst`, `*.adoc` … |
//! | 8 | `migrations` | a folder `migrations`, `migration`, `migrate`, `flyway`, `liquibase`, `alembic` |
//! | 9 | `backup_scripts` | a folder `backup`, `backups`, `restore`, `recovery`; scripts and configuration with `backup`, `restore`, `pg_dump` in the name |
//! | 10 | `cache_configuration` | a folder `cache`, `caching`, `redis`, `memcached`; `redis.conf`, `memcached.conf`; configuration with `cache` in the name |
//! | 11 | `key_management` | a folder `keys`, `secrets`, `vault`, `credentials`; scripts that rotate keys |
//! | 12 | `ai_integration` | a folder `ai`, `llm`, `openai`, `anthropic`, `claude`, `prompts`, `embeddings` …; configuration so named |
//! | 13 | `pipelines` | a folder `pipelines`, `etl`, `elt`, `dags`, `dbt`, `airflow`, `prefect`, `dagster`, `streams` … |
//! | 14 | `analytics` | a folder `analytics`, `reports`, `reporting`, `notebooks`; `*.ipynb` |
//! | 15 | `store_configuration` | `steward.yaml`, `postgresql.conf`, `pgbouncer.ini`, `my.cnf`, `mongod.conf` …; `*.sql`, `*.prisma`, `*.dbml`, `*.cql` … |
//! | 16 | `user_interface` | a folder `ui`, `components`, `frontend`, `views`, `templates`, `static`, `public`, `styles` …; `*.tsx`, `*.jsx`, `*.vue`, `*.svelte`, `*.css`, `*.html` … |
//! | 17 | `store_configuration` | configuration in a folder `db`, `database`, `schema`, `schemas`, `indexes`, `stores`, `sql` … |
//! | 18 | `application` | source code: `*.rs`, `*.py`, `*.go`, `*.js`, `*.ts`, `*.java` …; a folder `src`, `app`, `lib`, `crates` …; `Cargo.toml`, `package.json` … |
//! | 19 | `unknown` | everything else: nobody's, so not ours |
//!
//! Inside an application or interface folder (`src/`, `app/`, `frontend/` … as the first part), rules 9 to 14 hold only
//! for SQL and configuration, and they never hold for components and style sheets: `src/cache/lru.rs` is application code, while `pipelines/orders.py` is a pipeline.

use std::fmt;

use contract::Role;

/// A kind of file, by who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Territory {
    /// Database connections, schemas, indexes.
    StoreConfiguration,
    /// AI service integrations.
    AiIntegration,
    /// ETL and transformations.
    Pipelines,
    /// Caching systems.
    CacheConfiguration,
    /// Backup and restore.
    BackupScripts,
    /// Names and rotation of keys.
    KeyManagement,
    /// Reporting and analytics.
    Analytics,
    /// Schema and data migrations.
    Migrations,
    /// Who may do what.
    Policies,
    /// Application business logic: the Engineer's.
    Application,
    /// User interface components: the Engineer's.
    UserInterface,
    /// System configuration: Ops'.
    SystemConfiguration,
    /// Test files: QA's.
    Tests,
    /// Documentation content: Documentation's.
    Documentation,
    /// Steward's own state.
    StewardState,
    /// Not in the project at all.
    Outside,
    /// No rule says whose it is.
    Unknown,
}

impl Territory {
    /// The name that policies use, such as `migrations`.
    pub fn as_str(self) -> &'static str {
        match self {
            Territory::StoreConfiguration => "store_configuration",
            Territory::AiIntegration => "ai_integration",
            Territory::Pipelines => "pipelines",
            Territory::CacheConfiguration => "cache_configuration",
            Territory::BackupScripts => "backup_scripts",
            Territory::KeyManagement => "key_management",
            Territory::Analytics => "analytics",
            Territory::Migrations => "migrations",
            Territory::Policies => "policies",
            Territory::Application => "application",
            Territory::UserInterface => "user_interface",
            Territory::SystemConfiguration => "system_configuration",
            Territory::Tests => "tests",
            Territory::Documentation => "documentation",
            Territory::StewardState => "steward_state",
            Territory::Outside => "outside",
            Territory::Unknown => "unknown",
        }
    }

    /// Which other agent writes these files, if it is one.
    pub fn owner(self) -> Option<Role> {
        match self {
            Territory::Application | Territory::UserInterface => Some(Role::Engineer),
            Territory::SystemConfiguration => Some(Role::Ops),
            Territory::Tests => Some(Role::Qa),
            Territory::Documentation => Some(Role::Documentation),
            _ => None,
        }
    }

    /// Whose file `path` is, by the table above.
    pub fn of(path: &str) -> Territory {
        classify(path)
    }
}

impl fmt::Display for Territory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const SYSTEM_ROOTS: &[&str] =
    &["etc", "usr", "lib", "lib64", "boot", "opt", "var", "root", "sys", "proc", "dev", "bin", "sbin"];

const TEST_FOLDERS: &[&str] = &[
    "test",
    "tests",
    "__tests__",
    "spec",
    "specs",
    "e2e",
    "cypress",
    "fixtures",
    "testdata",
    "__mocks__",
    "playwright",
];

const SYSTEM_FOLDERS: &[&str] = &[
    ".github",
    ".gitlab",
    ".circleci",
    ".ci",
    ".azure",
    ".buildkite",
    "terraform",
    "ansible",
    "helm",
    "k8s",
    "kubernetes",
    "kustomize",
    "systemd",
    "nginx",
    "deploy",
    "deployment",
    "infra",
    "infrastructure",
    "docker",
    "puppet",
    "chef",
    "pulumi",
    "cloudformation",
    ".devcontainer",
    "etc",
];
const SYSTEM_NAMES: &[&str] = &[
    "dockerfile",
    "containerfile",
    "docker-compose.yml",
    "docker-compose.yaml",
    "compose.yml",
    "compose.yaml",
    "jenkinsfile",
    "vagrantfile",
    "procfile",
    ".gitlab-ci.yml",
    ".travis.yml",
    "makefile",
    "justfile",
    "nginx.conf",
    "haproxy.cfg",
    "crontab",
    "sshd_config",
    "hosts",
    "sudoers",
    ".env",
    ".dockerignore",
    ".gitignore",
    ".gitattributes",
    "fly.toml",
    "netlify.toml",
    "vercel.json",
    "supervisord.conf",
    "caddyfile",
    "bitbucket-pipelines.yml",
    "azure-pipelines.yml",
    "cloudbuild.yaml",
];
const SYSTEM_ENDINGS: &[&str] = &[
    "tf",
    "tfvars",
    "service",
    "socket",
    "timer",
    "mount",
    "hcl",
    "bicep",
    "nomad",
    "dockerfile",
    "pem",
    "crt",
    "rules",
];

const MIGRATION_FOLDERS: &[&str] = &["migrations", "migration", "migrate", "flyway", "liquibase", "alembic"];
const BACKUP_FOLDERS: &[&str] = &["backup", "backups", "restore", "recovery", "disaster-recovery"];
const CACHE_FOLDERS: &[&str] = &["cache", "caching", "caches", "redis", "memcached"];
const CACHE_NAMES: &[&str] = &[
    "redis.conf",
    "memcached.conf",
    "sentinel.conf",
    "redis.yaml",
    "redis.yml",
    "memcached.yaml",
    "valkey.conf",
];
const KEY_FOLDERS: &[&str] = &["keys", "secrets", "vault", "credentials", "api-keys", "api_keys"];
const AI_FOLDERS: &[&str] = &[
    "ai",
    "llm",
    "openai",
    "anthropic",
    "claude",
    "gemini",
    "azure-openai",
    "prompts",
    "embeddings",
    "ai-providers",
    "ai_providers",
    "fine-tuning",
    "finetuning",
];
const PIPELINE_FOLDERS: &[&str] = &[
    "pipelines",
    "pipeline",
    "etl",
    "elt",
    "dags",
    "dbt",
    "airflow",
    "prefect",
    "dagster",
    "streams",
    "kafka",
    "spark",
    "transforms",
    "transformations",
    "ingest",
    "ingestion",
];
const ANALYTICS_FOLDERS: &[&str] =
    &["analytics", "reports", "reporting", "notebooks", "dashboards-sql", "metrics-sql"];
const DOCUMENT_FOLDERS: &[&str] = &["docs", "doc", "documentation", "wiki", "man", "adr"];
const DOCUMENT_NAMES: &[&str] = &[
    "readme",
    "changelog",
    "contributing",
    "license",
    "licence",
    "authors",
    "code_of_conduct",
    "security",
    "notice",
    "maintainers",
    "architecture",
];
const DOCUMENT_ENDINGS: &[&str] = &["md", "mdx", "rst", "adoc", "asciidoc", "tex", "docx", "pdf", "odt"];
const UI_FOLDERS: &[&str] = &[
    "ui",
    "components",
    "frontend",
    "views",
    "templates",
    "static",
    "public",
    "styles",
    "pages",
    "layouts",
    "assets",
    "web",
    "client",
    "screens",
    "widgets",
];
const UI_ENDINGS: &[&str] = &[
    "tsx",
    "jsx",
    "vue",
    "svelte",
    "css",
    "scss",
    "sass",
    "less",
    "html",
    "htm",
    "svg",
    "astro",
    "hbs",
    "ejs",
    "xib",
    "storyboard",
];
/// Never anything but user interface, wherever they lie.
const COMPONENT_ENDINGS: &[&str] = &["tsx", "jsx", "vue", "svelte", "css", "scss", "sass", "less"];
const STORE_FOLDERS: &[&str] = &[
    "db",
    "database",
    "databases",
    "schema",
    "schemas",
    "indexes",
    "indices",
    "stores",
    "sql",
    "ddl",
    "collections",
];
const STORE_NAMES: &[&str] = &[
    "steward.yaml",
    "steward.yml",
    "pgbouncer.ini",
    "postgresql.conf",
    "pg_hba.conf",
    "my.cnf",
    "mongod.conf",
    "cassandra.yaml",
    "database.yml",
    "database.yaml",
    "database.toml",
    "ormconfig.json",
    "knexfile.json",
    "schema.rb",
    "sqlfluff.cfg",
    ".sqlfluff",
    "clickhouse.xml",
    "proxysql.cnf",
];
const STORE_ENDINGS: &[&str] =
    &["sql", "ddl", "dml", "prisma", "dbml", "cql", "psql", "pgsql", "hql", "bqsql"];
const CODE_FOLDERS: &[&str] = &[
    "src", "app", "apps", "lib", "libs", "crates", "cmd", "internal", "pkg", "packages", "server",
    "services", "api", "core", "domain",
];
const CODE_ENDINGS: &[&str] = &[
    "rs", "py", "go", "js", "mjs", "cjs", "ts", "java", "kt", "kts", "scala", "rb", "php", "cs", "fs", "c",
    "h", "cc", "cpp", "hpp", "swift", "m", "ex", "exs", "erl", "hs", "ml", "clj", "dart", "lua", "pl", "r",
    "zig", "nim", "proto", "graphql", "wasm", "sh", "bash", "ps1",
];
const CODE_NAMES: &[&str] = &[
    "cargo.toml",
    "cargo.lock",
    "package.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "go.mod",
    "go.sum",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "requirements.txt",
    "gemfile",
    "pom.xml",
    "build.gradle",
    "composer.json",
    "tsconfig.json",
    "mix.exs",
    "poetry.lock",
];
const CONFIG_ENDINGS: &[&str] =
    &["yaml", "yml", "toml", "json", "ini", "conf", "cfg", "cnf", "properties", "xml"];

fn classify(path: &str) -> Territory {
    let path = path.trim().replace('\\', "/").to_lowercase();
    if let Some(absolute) = path.strip_prefix('/') {
        let root = absolute.split('/').find(|part| !part.is_empty() && *part != ".").unwrap_or("");
        let climbs = absolute.split('/').any(|part| part == "..");
        return if SYSTEM_ROOTS.contains(&root) && !climbs {
            Territory::SystemConfiguration
        } else {
            Territory::Outside
        };
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let Some((name, folders)) = parts.split_last() else { return Territory::Outside };
    let drive = path.len() > 1 && path.as_bytes()[1] == b':' && path.as_bytes()[0].is_ascii_alphabetic();
    if parts.contains(&"..") || path.starts_with('~') || path.contains('\0') || drive {
        return Territory::Outside;
    }
    if parts[0] == ".steward" {
        return Territory::StewardState;
    }

    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let within = |list: &[&str]| folders.iter().any(|folder| list.contains(folder));
    let named = |list: &[&str]| list.contains(name);
    let ends = |list: &[&str]| list.contains(&ending);
    let configuration = ends(CONFIG_ENDINGS);
    // `src/cache/lru.rs` is the application's cache; `cache/layers.yaml` configures one.
    let theirs =
        folders.first().is_some_and(|first| CODE_FOLDERS.contains(first) || UI_FOLDERS.contains(first));
    let ours_by_folder = (!theirs || configuration || ends(STORE_ENDINGS)) && !ends(COMPONENT_ENDINGS);

    if parts[0] == "policies" && !folders.is_empty() || ends(&["cedar", "cedarschema"]) {
        return Territory::Policies;
    }
    let test_name = stem.starts_with("test_")
        || stem.ends_with("_test")
        || stem.ends_with("_spec")
        || matches!(stem.rsplit_once('.'), Some((_, "test" | "spec")))
        || (ends(&["java", "kt", "cs", "scala", "swift"])
            && (stem.ends_with("test") || stem.ends_with("tests")))
        || named(&[
            "conftest.py",
            "jest.config.js",
            "pytest.ini",
            "vitest.config.ts",
            "playwright.config.ts",
        ]);
    if within(TEST_FOLDERS) || test_name {
        return Territory::Tests;
    }
    if within(SYSTEM_FOLDERS)
        || named(SYSTEM_NAMES)
        || name.starts_with(".env.")
        || name.starts_with("dockerfile.")
        || name.starts_with("docker-compose.")
        || ends(SYSTEM_ENDINGS)
    {
        return Territory::SystemConfiguration;
    }
    if ends(DOCUMENT_ENDINGS) && !within(PIPELINE_FOLDERS)
        || within(DOCUMENT_FOLDERS)
        || DOCUMENT_NAMES.contains(&stem) && !configuration
    {
        return Territory::Documentation;
    }
    if within(MIGRATION_FOLDERS)
        || named(&["alembic.ini", "flyway.conf", "liquibase.properties", "diesel.toml"])
    {
        return Territory::Migrations;
    }
    if ours_by_folder {
        let script = configuration || ends(STORE_ENDINGS) || ends(&["sh", "bash", "py", "ps1"]);
        let about = |words: &[&str]| script && words.iter().any(|word| stem.contains(word));
        if within(BACKUP_FOLDERS) || about(&["backup", "restore", "pg_dump", "mysqldump", "pitr"]) {
            return Territory::BackupScripts;
        }
        if within(CACHE_FOLDERS) || named(CACHE_NAMES) || configuration && stem.contains("cache") {
            return Territory::CacheConfiguration;
        }
        if within(KEY_FOLDERS)
            || about(&["rotate_key", "rotate-key", "key_rotation", "key-rotation", "api_keys", "api-keys"])
        {
            return Territory::KeyManagement;
        }
        let ai_name = configuration
            && ["openai", "anthropic", "claude", "gemini", "llm"].iter().any(|word| stem.contains(word));
        if within(AI_FOLDERS) || ai_name {
            return Territory::AiIntegration;
        }
        if within(PIPELINE_FOLDERS)
            || named(&["dbt_project.yml", "airflow.cfg", "prefect.yaml", "dagster.yaml"])
        {
            return Territory::Pipelines;
        }
        if within(ANALYTICS_FOLDERS) || ends(&["ipynb"]) {
            return Territory::Analytics;
        }
    }
    if named(STORE_NAMES) || ends(STORE_ENDINGS) {
        return Territory::StoreConfiguration;
    }
    if within(UI_FOLDERS) || ends(UI_ENDINGS) {
        return Territory::UserInterface;
    }
    if within(STORE_FOLDERS) && (configuration || ending.is_empty()) {
        return Territory::StoreConfiguration;
    }
    if ends(CODE_ENDINGS) || named(CODE_NAMES) || within(CODE_FOLDERS) {
        return Territory::Application;
    }
    Territory::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_owner() {
        for (path, territory) in [
            ("migrations/orders/0001_create.sql", Territory::Migrations),
            ("./db//schema.sql", Territory::StoreConfiguration),
            ("pipelines/daily.yaml", Territory::Pipelines),
            ("src/cache/lru.rs", Territory::Application),
            ("cache/layers.yaml", Territory::CacheConfiguration),
            ("../other/steward.yaml", Territory::Outside),
            ("migrations/../../x.sql", Territory::Outside),
            ("/etc/passwd", Territory::SystemConfiguration),
            ("/etc/../home/x", Territory::Outside),
            ("/home/x/migrations/1.sql", Territory::Outside),
            ("C:\\Windows\\x.sql", Territory::Outside),
            ("~/x.sql", Territory::Outside),
            ("", Territory::Outside),
            (".steward/state.db", Territory::StewardState),
            ("policies/own.cedar", Territory::Policies),
            ("tests/fixtures/orders.sql", Territory::Tests),
            ("README", Territory::Documentation),
            ("DOCKERFILE", Territory::SystemConfiguration),
            ("frontend/App.tsx", Territory::UserInterface),
            ("blob.bin", Territory::Unknown),
        ] {
            assert_eq!(Territory::of(path), territory, "{path}");
        }
    }
}
