// An agent that uses node-postgres: node agent_node.js URL [--direct], with NODE_PATH leading to `pg` and `pg-copy-streams`.
//
// node-postgres queues commands, uses the simple protocol without values and the extended one with them, always in text.
// --direct: see agent_psycopg.py.
"use strict";

const readline = require("readline");
const { Readable } = require("stream");
const { pipeline } = require("stream/promises");
const { Client, Query } = require("pg");
const copyStreams = require("pg-copy-streams");

const url = process.argv[2];
const direct = process.argv.includes("--direct");
let failures = 0;

function check(name, expected, got) {
  const [wanted, found] = [JSON.stringify(expected), JSON.stringify(got)];
  if (wanted === found) {
    console.log(`ok ${name}`);
  } else {
    failures += 1;
    console.log(`FAIL ${name}: expected ${wanted} got ${found}`);
  }
}

function masked(name, maskedValue, clearValue, got) {
  check(name, direct ? clearValue : maskedValue, got);
}

// The error that a promise ends with.
async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return {};
}

function checkRefusal(name, error, rule = "customers-are-read-only") {
  check(`${name}: sqlstate`, "42501", error.code ?? null);
  if (direct || error.code === undefined) {
    return;
  }
  check(`${name}: names the rule`, true, `${error.message} ${error.detail} ${error.hint}`.includes(rule));
  check(`${name}: has the session`, true, (error.detail ?? "").includes("session"));
  check(`${name}: severity`, "ERROR", error.severity);
}

function denied(marker) {
  return `UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:node:${marker} */`;
}

async function rows(client, text, values) {
  return (await client.query({ text, values, rowMode: "array" })).rows;
}

async function reading(client) {
  const people = [[1, "Ada Lovelace"], [2, "Grace Hopper"], [3, "Alan Turing"]];
  check("clear columns", people, await rows(client, "SELECT id, name FROM customers ORDER BY id"));
  for (const id of [1, 2, 3, 1]) {
    const named = { name: "by-id", text: "SELECT name FROM customers WHERE id = $1", values: [id], rowMode: "array" };
    check(`named statement, id ${id}`, [[people[id - 1][1]]], (await client.query(named)).rows);
  }
  for (const [kind, text, values] of [
    ["simple", "SELECT id, name, email, card, ssn, balance FROM customers WHERE id = 1", undefined],
    ["extended", "SELECT id, name, email, card, ssn, balance FROM customers WHERE id = $1", [1]],
  ]) {
    const [row] = await rows(client, text, values);
    check(`${kind}: id, name`, [1, "Ada Lovelace"], row.slice(0, 2));
    masked(`${kind}: email`, "[masked:pii]", "ada@example.com", row[2]);
    masked(`${kind}: card`, "************1111", "4111111111111111", row[3]);
    masked(`${kind}: ssn in varchar(11)`, "***", "078-05-1120", row[4]);
    check(`${kind}: numeric`, "1200.50", row[5]);
  }
  const binary = { text: "SELECT card, email FROM customers WHERE id = $1", values: [1], binary: true, rowMode: "array" };
  masked("binary results", [["************1111", "[masked:pii]"]], [["4111111111111111", "ada@example.com"]],
    (await client.query(binary)).rows);
  check("NULL stays NULL", [[null, null, null]], await rows(client, "SELECT email, card, ssn FROM customers WHERE id = 3"));
  const computed = "SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1";
  masked("computed", [["[masked:pii]", null, "[masked:card]", 2]], [["ADA@EXAMPLE.COM", 16, "4111111111111111", 2]],
    await rows(client, computed));
  const notes = await rows(client, "SELECT note FROM orders WHERE id <= 3 ORDER BY id");
  masked("card in free text", ["paid with ***************1111"], ["paid with 4111 1111 1111 1111"], notes[0]);
  check("other notes", [[null], ["gift"]], notes.slice(1));
  const view = await rows(client, "SELECT * FROM spending ORDER BY id");
  check("view, ids", [1, 2], view.map((row) => row[0]));
  check("view, no card", direct, JSON.stringify(view).includes("4111111111111111"));
}

async function denials(client) {
  checkRefusal("denied write", await refusal(client.query(denied("plain"))));
  check("usable after a denial", [[1]], await rows(client, "SELECT 1"));
  const bound = ["UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:node:bound */", ["Mallory", 1]];
  checkRefusal("denied, with values", await refusal(client.query(...bound)));
  const named = { name: "denied", text: bound[0].replace("bound", "named"), values: bound[1] };
  checkRefusal("denied, named", await refusal(client.query(named)));
  checkRefusal("denied, named, again", await refusal(client.query(named)));
  check("usable after denied values", [[5]], await rows(client, "SELECT $1::int", [5]));
  const file = "SELECT pg_read_file('/etc/passwd') /* forbidden:node:file */";
  checkRefusal("server files", await refusal(client.query(file)), "");
  if (!direct) {
    const block = await refusal(client.query("DO $$ BEGIN PERFORM 1; END $$ /* forbidden:node:do */"));
    check("DO block", "42501", block.code ?? null);
  }
  const several = `INSERT INTO orders (customer, item) VALUES (1, 'node-several'); ${denied("several")}; SELECT 1`;
  checkRefusal("one of several is denied", await refusal(client.query(several)));
  check("none of several ran", 0, await count(client, "node-several"));
  check("name is untouched", [["Ada Lovelace"]], await rows(client, "SELECT name FROM customers WHERE id = 1"));
}

async function count(client, item) {
  return Number((await rows(client, "SELECT count(*) FROM orders WHERE item = $1", [item]))[0][0]);
}

// node-postgres sends a queued command when the one before is answered; the order of answers must hold.
async function queueing(client) {
  const queued = [
    client.query("SELECT card FROM customers WHERE id = 1"),
    client.query("INSERT INTO orders (customer, item) VALUES (1, 'node-queued')"),
    client.query(denied("queued")),
    client.query("UPDATE customers SET name = $1 /* forbidden:node:queued-bound */ WHERE id = 1", ["Mallory"]),
    client.query("SELECT card FROM customers WHERE id = $1", [2]),
  ];
  const settled = await Promise.allSettled(queued);
  check("queued: outcomes", ["fulfilled", "fulfilled", "rejected", "rejected", "fulfilled"], settled.map((one) => one.status));
  masked("queued: first", "************1111", "4111111111111111", settled[0].value?.rows[0].card);
  checkRefusal("queued: denied", settled[2].reason ?? {});
  checkRefusal("queued: denied with values", settled[3].reason ?? {});
  masked("queued: last", "************5559", "5500005555555559", settled[4].value?.rows[0].card);
  check("queued: each is its own transaction", 1, await count(client, "node-queued"));
  const results = await client.query("SELECT 1 AS n; SELECT card AS n FROM customers WHERE id = 1; SELECT 'last' AS n");
  masked("several statements", [1, "************1111", "last"], [1, "4111111111111111", "last"],
    results.map((result) => result.rows[0].n));
}

async function transactions(client) {
  await client.query("BEGIN");
  await client.query("INSERT INTO orders (customer, item) VALUES ($1, $2)", [1, "node-lost"]);
  checkRefusal("denied in a transaction", await refusal(client.query(denied("transaction"))));
  check("failed until the end", "25P02", (await refusal(client.query("SELECT 1"))).code ?? null);
  check("COMMIT answers ROLLBACK", "ROLLBACK", (await client.query("COMMIT")).command);
  check("COMMIT of a failed transaction rolls back", 0, await count(client, "node-lost"));
  await client.query("BEGIN");
  await client.query("INSERT INTO orders (customer, item) VALUES (1, 'node-kept')");
  await client.query("SAVEPOINT before");
  checkRefusal("denied after a savepoint", await refusal(client.query(denied("savepoint"))));
  await client.query("ROLLBACK TO SAVEPOINT before");
  await client.query("COMMIT");
  check("what stood before the savepoint is there", 1, await count(client, "node-kept"));
  const text = "INSERT INTO orders (customer, item, amount) VALUES ($1, $2, $3) RETURNING id";
  const inserted = await client.query(text, [2, "node-order", 1.5]);
  check("returning", "number", typeof inserted.rows[0].id);
  await client.query("BEGIN");
  await client.query("DELETE FROM orders WHERE id = $1", [inserted.rows[0].id]);
  await client.query("ROLLBACK");
  check("rolled back", 1, await count(client, "node-order"));
}

// A portal with a row limit, left suspended and gone on with: node-postgres' `rows` setting.
async function portals(client) {
  const walk = new Query({ text: "SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id", rows: 100, rowMode: "array" });
  const seen = await new Promise((resolve, reject) => {
    const found = [];
    walk.on("row", (row) => found.push(row[0]));
    walk.on("end", () => resolve(found));
    walk.on("error", reject);
    client.query(walk);
  });
  check("portal, 100 rows at a time", [1000, 1, 1000], [seen.length, seen[0], seen[999]]);
}

// node-postgres has no COPY of its own: everybody uses pg-copy-streams.
async function copies(client) {
  const copyOut = async (text) => {
    const pieces = [];
    for await (const piece of client.query(copyStreams.to(text))) {
      pieces.push(piece);
    }
    return Buffer.concat(pieces).toString();
  };
  const copyIn = (text, lines) => pipeline(Readable.from(lines), client.query(copyStreams.from(text)));
  check("copy out", "1\trow 1\n2\trow 2\n", await copyOut("COPY (SELECT id, what FROM scratch WHERE id <= 2 ORDER BY id) TO STDOUT"));
  const people = await copyOut("COPY customers (id, email, card) TO STDOUT");
  masked("copy out, masked", "1\t[masked:pii]\t************1111", "1\tada@example.com\t4111111111111111", people.split("\n")[0]);
  const rows = Array.from({ length: 600 }, (_, n) => `${n}\tnode\n`);
  await copyIn("COPY scratch (id, what) FROM STDIN", rows);
  check("copy in", 600, (await client.query("DELETE FROM scratch WHERE what = 'node'")).rowCount);
  const denied = "COPY customers (id, name) FROM STDIN /* forbidden:node:copy */";
  checkRefusal("denied copy in", await refusal(copyIn(denied, ["77\tMallory\n"])));
  checkRefusal("denied copy out", await refusal(copyOut("COPY (DELETE FROM customers RETURNING id) TO STDOUT /* forbidden:node:out */")));
  check("usable after copies", 0, await count(client, "node-copy"));
}

async function notifications(client) {
  const speaker = new Client({ connectionString: url });
  await speaker.connect();
  const heard = new Promise((resolve) => client.once("notification", (news) => resolve([news.channel, news.payload])));
  await client.query("LISTEN node_news");
  await speaker.query("NOTIFY node_news, 'hello'");
  const late = new Promise((resolve) => setTimeout(() => resolve("nothing"), 5000).unref());
  check("listen and notify", ["node_news", "hello"], await Promise.race([heard, late]));
  await client.query("UNLISTEN node_news");
  await speaker.end();
}

async function cancellation(client) {
  const began = Date.now();
  const long = client.query(
    "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0");
  const running = client._activeQuery ?? client.activeQuery;
  setTimeout(() => new Client({ connectionString: url }).cancel(client, running), 500);
  check("cancelled", "57014", (await refusal(long)).code ?? null);
  check("cancelled soon", true, Date.now() - began < 8000);
  check("usable after a cancel", [[1]], await rows(client, "SELECT 1"));
}

// Asks the test for something that it does while this program goes on.
function soon(wish) {
  console.log(`please ${wish}`);
}

// The same, and waits until it is done.
async function please(wish) {
  const read = answers.next();
  soon(wish);
  await read;
}

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// What others do to a session: approve, change a table, end it.
async function outside() {
  const client = new Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  const ticks = async () => (await rows(client, "SELECT n FROM ticks"))[0][0];
  const before = await ticks();
  const done = answers.next();
  soon("approve held:node");
  await client.query("UPDATE ticks SET n = n + 1 /* held:node */");
  await done;
  check("a held command ran once", before + 1, await ticks());
  const named = { name: "shape", text: "SELECT what FROM shapes WHERE id = $1", rowMode: "array" };
  const star = { name: "star", text: "SELECT * FROM shapes WHERE id = $1", values: [1], rowMode: "array" };
  await client.query({ ...named, values: [1] });
  await client.query(star);
  await please("sql ALTER TABLE shapes ADD COLUMN node int DEFAULT 7");
  check("a statement outlives a new column", [["row 2"]], (await client.query({ ...named, values: [2] })).rows);
  check("a star says that its columns changed", "0A000", (await refusal(client.query(star))).code ?? null);
  let found = null;
  for (let round = 0; round < 20 && found === null; round++) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    // node-postgres does not prepare again under a name that it knows.
    found = (await client.query({ ...star, name: `again-${round}` })).rows[0].at(-1);
  }
  check("and has them soon", 7, found);
  await please("kill");
  check("a killed session is an error", true, (await refusal(client.query("SELECT 'forbidden:killed'"))) instanceof Error);
  const next = new Client({ connectionString: url });
  await next.connect();
  check("after a reconnect", [["************1111"]], await rows(next, "SELECT card FROM customers WHERE id = 1"));
  await next.end();
}

async function main() {
  const client = new Client({ connectionString: url, application_name: "agent_node" });
  await client.connect();
  // What an earlier run left.
  await client.query("DELETE FROM orders WHERE item LIKE 'node-%'");
  await reading(client);
  await denials(client);
  await queueing(client);
  await transactions(client);
  await portals(client);
  await copies(client);
  await notifications(client);
  await cancellation(client);
  await client.end();
  if (!direct) {
    await outside();
  }
  process.stdin.destroy();
  process.exitCode = failures === 0 ? 0 : 1;
}

main().catch((error) => {
  console.log(`FAIL ran through: ${error.stack}`);
  process.exit(1);
});
