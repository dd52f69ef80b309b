-- Steward's own state. Common dialect of SQLite and PostgreSQL: TEXT ids, INTEGER (BIGINT) microseconds since 1970 UTC
-- with names that end in _us, TEXT JSON, BLOB (BYTEA) for sealed bytes. Every table of a project's things has `project`.

-- The chain: header and salted hash of the body; the body lies apart so that it can be erased.
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY,  -- 1, 2, 3 … without gaps
    id         TEXT    NOT NULL UNIQUE,
    project    TEXT    NOT NULL,
    at_us      INTEGER NOT NULL,
    kind       TEXT    NOT NULL,     -- such as index.create.intent
    actor      TEXT    NOT NULL,
    subject    TEXT    NOT NULL,     -- such as store:orders; empty for none
    task       TEXT    NOT NULL,     -- empty for none
    body_hash  TEXT    NOT NULL,     -- SHA-256 over salt and body, hex
    prev_hash  TEXT    NOT NULL,     -- hash of the entry before; 64 zeros for the first
    hash       TEXT    NOT NULL      -- SHA-256 over the header with prev_hash, hex
);
CREATE INDEX events_project_kind ON events (project, kind, seq);
CREATE INDEX events_task ON events (task, seq) WHERE task <> '';
-- Whether a body may be missing.
CREATE INDEX events_erasures ON events (subject, seq) WHERE kind = 'audit.erasure';

CREATE TABLE bodies (
    seq   INTEGER PRIMARY KEY,
    body  BLOB NOT NULL              -- salt and body, sealed with the ledger's data key; gone after an erasure event
);

CREATE TABLE meta (
    name   TEXT PRIMARY KEY,         -- schema_version, key_check, audit_public_key …
    value  TEXT NOT NULL
);

-- Bumped by every change to keys, policies, limits, people or tokens; the daemon polls it.
CREATE TABLE generations (
    name   TEXT PRIMARY KEY,
    value  INTEGER NOT NULL
);

CREATE TABLE leases (
    project     TEXT NOT NULL,
    name        TEXT NOT NULL,
    holder      TEXT NOT NULL,       -- process and random part
    expires_us  INTEGER NOT NULL,
    PRIMARY KEY (project, name)
);

-- Exact plans by digest, as they were shown and approved.
CREATE TABLE plans (
    digest   TEXT NOT NULL,
    project  TEXT NOT NULL,
    request  TEXT NOT NULL,
    body     TEXT NOT NULL,          -- canonical JSON; holds no secret
    made_us  INTEGER NOT NULL,
    PRIMARY KEY (project, digest)
);

-- A change that was begun; `finished_us` is null until its outcome is in the chain.
CREATE TABLE intents (
    id           TEXT PRIMARY KEY,
    project      TEXT NOT NULL,
    request      TEXT NOT NULL,
    subject      TEXT NOT NULL,
    plan_digest  TEXT NOT NULL,
    approval     TEXT,
    actor        TEXT NOT NULL,      -- JSON
    task         TEXT NOT NULL,
    holder       TEXT NOT NULL,      -- whose lease `intent:<id>` says that it still runs
    begun_us     INTEGER NOT NULL,
    finished_us  INTEGER,
    outcome      TEXT                -- done, failed, resumed, undone
);
CREATE INDEX intents_open ON intents (project) WHERE finished_us IS NULL;

CREATE TABLE approvals (
    id            TEXT PRIMARY KEY,
    project       TEXT NOT NULL,
    request       TEXT NOT NULL,
    arguments     TEXT NOT NULL,     -- JSON
    summary       TEXT NOT NULL,
    action        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    plan_digest   TEXT NOT NULL,
    task          TEXT NOT NULL,
    requester     TEXT NOT NULL,     -- JSON of the actor
    roles         TEXT NOT NULL,     -- JSON array: any one of these may approve
    state         TEXT NOT NULL,     -- waiting, granted, denied, used, expired
    created_us    INTEGER NOT NULL,
    expires_us    INTEGER NOT NULL,
    decided_us    INTEGER,
    approver      TEXT,              -- person's name
    record        TEXT,              -- canonical JSON that was signed
    signature     TEXT,              -- base64, Ed25519 by the approver's key
    used_us       INTEGER
);
CREATE INDEX approvals_plan ON approvals (project, plan_digest);

CREATE TABLE people (
    project      TEXT NOT NULL,
    name         TEXT NOT NULL,
    roles        TEXT NOT NULL,      -- JSON array
    public_key   TEXT NOT NULL,      -- base64, Ed25519
    sealed_key   TEXT NOT NULL,      -- private key sealed by a passphrase, base64 JSON envelope
    added_us     INTEGER NOT NULL,
    removed_us   INTEGER,
    PRIMARY KEY (project, name, added_us)
);

-- Bearer tokens for HTTP and MCP.
CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    project      TEXT NOT NULL,
    name         TEXT NOT NULL,
    token_hash   TEXT NOT NULL UNIQUE,  -- SHA-256 of the 256-bit random token, hex
    roles        TEXT NOT NULL,         -- JSON array
    created_us   INTEGER NOT NULL,
    expires_us   INTEGER,
    revoked_us   INTEGER
);

CREATE TABLE secrets (
    project       TEXT NOT NULL,
    name          TEXT NOT NULL,
    version       INTEGER NOT NULL,
    data_key      BLOB NOT NULL,     -- sealed with the master key
    value         BLOB NOT NULL,     -- sealed with the data key
    created_us    INTEGER NOT NULL,
    last_used_us  INTEGER,
    PRIMARY KEY (project, name, version)
);

-- What numbers rest on; `answer` is sealed like a body, since it may hold rows.
CREATE TABLE evidence (
    id         TEXT PRIMARY KEY,
    project    TEXT NOT NULL,
    request    TEXT NOT NULL,
    source     TEXT NOT NULL,
    statement  TEXT NOT NULL,
    answer     BLOB NOT NULL,
    digest     TEXT NOT NULL,        -- SHA-256 of the evidence as canonical JSON, hex; also in the chain
    taken_us   INTEGER NOT NULL,
    elapsed_us INTEGER NOT NULL,
    task       TEXT NOT NULL
);
CREATE INDEX evidence_task ON evidence (task) WHERE task <> '';

-- Scheduled requests, and tasks to go on with.
CREATE TABLE jobs (
    project      TEXT NOT NULL,
    name         TEXT NOT NULL,
    request      TEXT NOT NULL,
    arguments    TEXT NOT NULL,      -- JSON
    next_us      INTEGER,            -- when it is due; null: not scheduled
    last_us      INTEGER,            -- the due time that was run last
    last_status  TEXT,
    last_error   TEXT,
    PRIMARY KEY (project, name)
);

CREATE TABLE tasks (
    id           TEXT NOT NULL,
    project      TEXT NOT NULL,
    title        TEXT NOT NULL,
    state        TEXT NOT NULL,      -- planned, running, waiting, done, failed, needs_clarification, forbidden, escalated, findings
    source       TEXT NOT NULL,      -- the text as it came
    body         TEXT NOT NULL,      -- JSON: the task, its plan and where it stands
    report       TEXT,               -- JSON
    created_us   INTEGER NOT NULL,
    updated_us   INTEGER NOT NULL,
    PRIMARY KEY (project, id)
);

CREATE TABLE escalations (
    id             TEXT PRIMARY KEY,
    project        TEXT NOT NULL,
    trigger        TEXT NOT NULL,
    severity       TEXT NOT NULL,
    title          TEXT NOT NULL,
    detail         TEXT NOT NULL,
    subject        TEXT NOT NULL,
    evidence       TEXT NOT NULL,    -- JSON array of ids
    dedup_key      TEXT NOT NULL,    -- one open escalation per project and key
    seen           INTEGER NOT NULL, -- how often it was raised
    task           TEXT NOT NULL,
    created_us     INTEGER NOT NULL,
    last_us        INTEGER NOT NULL,
    acknowledged_us INTEGER,
    acknowledged_by TEXT
);
CREATE UNIQUE INDEX escalations_open ON escalations (project, dedup_key) WHERE acknowledged_us IS NULL;

-- One row for each escalation and webhook.
CREATE TABLE deliveries (
    escalation    TEXT NOT NULL,
    project       TEXT NOT NULL,
    target        TEXT NOT NULL,     -- name of the webhook in the project file
    attempts      INTEGER NOT NULL,
    next_us       INTEGER,           -- null: delivered or given up
    delivered_us  INTEGER,
    last_error    TEXT,
    PRIMARY KEY (escalation, target)
);
