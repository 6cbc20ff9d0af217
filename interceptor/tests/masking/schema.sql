-- What the search looks for ways around: tagged columns of every sort of type, and everything that reads them.
CREATE EXTENSION IF NOT EXISTS citext;
DO $$ BEGIN CREATE EXTENSION hstore; EXCEPTION WHEN OTHERS THEN CREATE DOMAIN hstore AS text; END $$;
DO $$ BEGIN CREATE EXTENSION pgcrypto; EXCEPTION WHEN OTHERS THEN NULL; END $$;
CREATE EXTENSION IF NOT EXISTS fuzzystrmatch;
CREATE SCHEMA agent;
CREATE TYPE pair AS (a text, b text);
CREATE DOMAIN secretive AS text;
CREATE DOMAIN short AS text CHECK (length(VALUE) < 4);
CREATE TABLE people (
    id int PRIMARY KEY, name text, team text, note text,
    ssn text, email text, card text, ref text, phone varchar(40), code char(30), nick citext, dom secretive,
    salary numeric, born date, big bigint, score float8, seen timestamptz, small int,
    key uuid, secret bytea, addr inet, doc jsonb, docj json, mark xml, tags text[], couple pair, spans numrange,
    days daterange, words tsvector, extra hstore, gone text
);
CREATE TABLE orders (id int PRIMARY KEY, person int REFERENCES people, what text, amount numeric, ssn text);
INSERT INTO people (id, name, team, note) SELECT n, 'name' || n, 'team' || n % 2, 'note' || n FROM generate_series(1, 4) n;
INSERT INTO orders (id, person, what, amount) SELECT n, n % 4 + 1, 'what' || n, n * 10 FROM generate_series(1, 6) n;

CREATE TABLE folk_base (id int, label text, ssn text);
CREATE TABLE folk_child (more text) INHERITS (folk_base);
CREATE TABLE logs (id int, day date, who text, ssn text) PARTITION BY RANGE (id);
CREATE TABLE logs_low PARTITION OF logs FOR VALUES FROM (0) TO (3);
CREATE TABLE logs_high PARTITION OF logs FOR VALUES FROM (3) TO (100);
CREATE TABLE made (id int, ssn text, loud text GENERATED ALWAYS AS (upper(ssn)) STORED, plain int GENERATED ALWAYS AS (id + 1) STORED);
CREATE TABLE booked (id int, v text UNIQUE, ssn text UNIQUE);
CREATE TABLE strict (id int NOT NULL, v text CHECK (length(v) < 4), ssn text, d short);
CREATE TABLE twice (id int, ssn text, v text);

CREATE VIEW folk AS SELECT id, name, ssn AS x, email AS y, upper(card) AS z FROM people;
CREATE VIEW folk_deep AS SELECT f.id, f.name, f.x AS deep, o.what FROM folk f JOIN orders o ON o.person = f.id;
CREATE VIEW folk_guarded WITH (security_barrier) AS SELECT id, ssn AS hidden, team FROM people WHERE id > 0;
CREATE VIEW folk_union AS SELECT id, ssn AS any FROM people UNION ALL SELECT id, what FROM orders;
CREATE VIEW folk_json AS SELECT id, to_jsonb(people) AS everything FROM people;
CREATE MATERIALIZED VIEW folk_kept AS SELECT id, name, ssn AS kept, salary * 2 AS twice FROM people;

CREATE TABLE agent.sink (id int, v text, w text, n numeric, j jsonb, b bytea, a text[], i int[], c pair, d date);
CREATE TABLE agent.unique_sink (id int PRIMARY KEY, v text UNIQUE);
CREATE TABLE agent.tagged (id int, ssn text);
CREATE VIEW agent.misleading AS SELECT id, v AS ssn FROM agent.sink;
CREATE SEQUENCE agent.counter;

CREATE FUNCTION echo(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1 $$;
CREATE FUNCTION shout(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'said %', $1; RETURN $1; END $$;
CREATE FUNCTION person(int) RETURNS SETOF people LANGUAGE sql STABLE AS $$ SELECT * FROM people WHERE id = $1 $$;
CREATE FUNCTION couple_of(int) RETURNS pair LANGUAGE sql STABLE AS $$ SELECT (ssn, email)::pair FROM people WHERE id = $1 $$;
