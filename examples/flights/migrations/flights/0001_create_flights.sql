-- Flights, the planes that flew them and the carriers that sold them.

-- steward: up
CREATE TABLE carriers (
    code  TEXT PRIMARY KEY,
    name  TEXT NOT NULL
);

CREATE TABLE planes (
    tailnum       TEXT PRIMARY KEY,
    built_year    INTEGER,
    manufacturer  TEXT NOT NULL,
    model         TEXT NOT NULL,
    engines       INTEGER NOT NULL,
    seats         INTEGER NOT NULL,
    engine_type   TEXT NOT NULL
);

CREATE TABLE flights (
    id                       INTEGER PRIMARY KEY,
    flight_date              TEXT NOT NULL,
    carrier                  TEXT NOT NULL REFERENCES carriers (code),
    flight_number            INTEGER NOT NULL,
    tailnum                  TEXT REFERENCES planes (tailnum),
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
