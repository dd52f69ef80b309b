-- Flights, the planes that flew them and the carriers that sold them.

-- steward: up
CREATE TABLE carriers (
    code  TEXT PRIMARY KEY,
    name  TEXT NOT NULL
);

-- The id is the tail number.
CREATE TABLE planes (
    id            TEXT PRIMARY KEY,
    built_year    INTEGER,
    manufacturer  TEXT NOT NULL,
    model         TEXT NOT NULL,
    engines       INTEGER NOT NULL,
    seats         INTEGER NOT NULL,
    engine_type   TEXT NOT NULL
);

-- No foreign key for plane_id: the sources do not agree, see 0003.
CREATE TABLE flights (
    id                       INTEGER PRIMARY KEY,
    flight_date              TEXT NOT NULL,
    carrier                  TEXT NOT NULL REFERENCES carriers (code),
    flight_number            INTEGER NOT NULL,
    plane_id                 TEXT,
    origin                   TEXT NOT NULL,
    destination              TEXT NOT NULL,
    departure_delay_minutes  INTEGER,
    arrival_delay_minutes    INTEGER,
    air_time_minutes         INTEGER,
    distance_miles           INTEGER NOT NULL
);

-- steward: down
DROP TABLE flights;
DROP TABLE planes;
DROP TABLE carriers;
