"""An agent that uses asyncpg: python agent_asyncpg.py URL [--direct]

asyncpg speaks the extended protocol with binary values and named statements. --direct: see agent_psycopg.py.
"""

import asyncio
import decimal
import io
import time

import asyncpg

import checks
from checks import DIRECT, URL, check, masked, please, soon

async def refusal(awaitable):
    """The error that `awaitable` raises."""
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        return error
    return None


def check_refusal(name, error, rule="customers-are-read-only"):
    check(f"{name}: sqlstate", "42501", getattr(error, "sqlstate", None))
    if DIRECT or error is None:
        return
    said = " ".join(str(part) for part in (error.args[0], error.detail, error.hint))
    check(f"{name}: names the rule", True, rule in said)
    check(f"{name}: has the session", True, "session" in (error.detail or ""))


def denied(marker):
    return checks.denied("asyncpg", marker)


async def reading(connection):
    rows = await connection.fetch("SELECT id, name FROM customers ORDER BY id")
    check("clear columns", [(1, "Ada Lovelace"), (2, "Grace Hopper"), (3, "Alan Turing")], [tuple(row) for row in rows])
    statement = await connection.prepare("SELECT id, name, email, card, ssn, balance FROM customers WHERE id = $1")
    row = await statement.fetchrow(1)
    check("prepared: id, name", (1, "Ada Lovelace"), tuple(row)[:2])
    masked("prepared: email", "[masked:pii]", "ada@example.com", row["email"])
    masked("prepared: card", "************1111", "4111111111111111", row["card"])
    masked("prepared: ssn in varchar(11)", "***", "078-05-1120", row["ssn"])
    check("prepared: numeric", decimal.Decimal("1200.50"), row["balance"])
    check("prepared: types", ["int4", "text", "text", "text", "varchar", "numeric"],
          [attribute.type.name for attribute in statement.get_attributes()])
    row = await statement.fetchrow(3)
    check("prepared again: NULL stays NULL", (None, None, None), tuple(row)[2:5])
    row = await connection.fetchrow("SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1")
    masked("upper(email)", "[masked:pii]", "ADA@EXAMPLE.COM", row[0])
    masked("length(card)", None, 16, row[1])
    masked("card || ''", "[masked:card]", "4111111111111111", row[2])
    check("id + 1", 2, row[3])
    row = await connection.fetchrow("SELECT array[card], row_to_json(c) FROM customers c WHERE id = 1")
    check("no card in an array or a document", DIRECT, "4111111111111111" in str(row))
    rows = await connection.fetch("SELECT note FROM orders WHERE id <= 3 ORDER BY id")
    masked("card in free text", "paid with ***************1111", "paid with 4111 1111 1111 1111", rows[0][0])
    check("other notes", [None, "gift"], [row[0] for row in rows[1:]])
    rows = await connection.fetch("SELECT * FROM spending ORDER BY id")
    check("view, ids", [1, 2], [row["id"] for row in rows])
    check("view, no card", DIRECT, "4111111111111111" in str(rows))


async def denials(connection):
    check_refusal("denied write", await refusal(connection.execute(denied("plain"))))
    check("usable after a denial", 1, await connection.fetchval("SELECT 1"))
    bound = "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:asyncpg:bound */"
    check_refusal("denied, with values", await refusal(connection.execute(bound, "Mallory", 1)))
    check_refusal("denied, the same again", await refusal(connection.execute(bound, "Mallory", 1)))
    check("usable after denied values", 5, await connection.fetchval("SELECT $1::int", 5))
    check_refusal("server files", await refusal(
        connection.fetch("SELECT pg_read_file('/etc/passwd') /* forbidden:asyncpg:file */")), rule="")
    if not DIRECT:
        error = await refusal(connection.execute("DO $$ BEGIN PERFORM 1; END $$ /* forbidden:asyncpg:do */"))
        check("DO block", "42501", getattr(error, "sqlstate", None))
    text = f"INSERT INTO orders (customer, item) VALUES (1, 'asyncpg-several'); {denied('several')}; SELECT 1"
    check_refusal("one of several is denied", await refusal(connection.execute(text)))
    check("none of several ran", 0, await count(connection, "asyncpg-several"))
    many = "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:asyncpg:many */"
    check_refusal("denied executemany", await refusal(connection.executemany(many, [("Mallory", n) for n in (1, 2, 3)])))
    check("name is untouched", "Ada Lovelace", await connection.fetchval("SELECT name FROM customers WHERE id = 1"))


async def count(connection, item):
    return await connection.fetchval("SELECT count(*) FROM orders WHERE item = $1", item)


async def transactions(connection):
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO orders (customer, item) VALUES ($1, $2)", 1, "asyncpg-lost")
    check_refusal("denied in a transaction", await refusal(connection.execute(denied("transaction"))))
    error = await refusal(connection.fetchval("SELECT 1"))
    check("failed until the end", "25P02", getattr(error, "sqlstate", None))
    await transaction.commit()
    check("no transaction after COMMIT", False, connection.is_in_transaction())
    check("COMMIT of a failed transaction rolls back", 0, await count(connection, "asyncpg-lost"))
    async with connection.transaction():
        await connection.execute("INSERT INTO orders (customer, item) VALUES (1, 'asyncpg-kept')")
        try:
            async with connection.transaction():
                await connection.execute(
                    "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:asyncpg:savepoint */", "Mallory", 1)
        except asyncpg.PostgresError as error:
            check_refusal("denied after a savepoint", error)
        check("healed by the savepoint", 1, await connection.fetchval("SELECT 1"))
    check("what stood before the savepoint is there", 1, await count(connection, "asyncpg-kept"))
    async with connection.transaction():
        identifier = await connection.fetchval(
            "INSERT INTO orders (customer, item, amount) VALUES ($1, $2, $3) RETURNING id", 2, "asyncpg-order",
            decimal.Decimal("1.5"))
        check("returning", True, isinstance(identifier, int))
    check("committed", 1, await count(connection, "asyncpg-order"))
    await connection.executemany("INSERT INTO orders (customer, item) VALUES ($1, $2)", [(1, "asyncpg-many")] * 50)
    check("executemany", 50, await count(connection, "asyncpg-many"))
    error = await refusal(connection.executemany("INSERT INTO orders (customer, item) VALUES ($1, $2)",
                                                 [(1, "asyncpg-torn"), (4711, "asyncpg-torn"), (1, "asyncpg-torn")]))
    check("executemany with the server's error", "23503", getattr(error, "sqlstate", None))
    check("executemany is one transaction", 0, await count(connection, "asyncpg-torn"))
    check("status of an update", "UPDATE 1",
          await connection.execute("UPDATE orders SET amount = 2 WHERE item = 'asyncpg-order'"))


async def copies(connection):
    out = io.BytesIO()
    status = await connection.copy_from_query("SELECT id, what FROM scratch WHERE id <= 3 ORDER BY id", output=out)
    check("copy out", ("COPY 3", b"1\trow 1\n2\trow 2\n3\trow 3\n"), (status, out.getvalue()))
    out = io.BytesIO()
    await connection.copy_from_table("customers", columns=["id", "email", "card"], output=out, format="csv")
    masked("copy out, masked", b'1,"[masked:pii]","************1111"', b"1,ada@example.com,4111111111111111",
           out.getvalue().split(b"\n")[0])
    status = await connection.copy_to_table("scratch", source=io.BytesIO(b"7\tasyncpg\n8\tasyncpg\n"), columns=["id", "what"])
    check("copy in", "COPY 2", status)
    status = await connection.copy_records_to_table(
        "scratch", records=[(n, "asyncpg") for n in range(3000)], columns=["id", "what"])
    check("copy in, binary records", "COPY 3000", status)
    check("copied", 3002, await connection.fetchval("SELECT count(*) FROM scratch WHERE what = 'asyncpg'"))
    error = await refusal(connection.copy_to_table(
        "customers", source=io.BytesIO(b"77\tMallory-forbidden:asyncpg:copy\n"), columns=["id", "name"]))
    check_refusal("denied copy in", error)
    check("usable after copies", 1, await connection.fetchval("SELECT 1"))
    await connection.execute("DELETE FROM scratch WHERE what = 'asyncpg'")


async def cursors(connection):
    async with connection.transaction():
        seen = [row["id"] async for row in connection.cursor("SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id", prefetch=64)]
        check("cursor", list(range(1, 1001)), seen)
        cursor = await connection.cursor("SELECT card FROM customers ORDER BY id")
        first, second = await cursor.fetch(1), await cursor.fetch(1)
        masked("cursor, masked, row by row", ["************1111", "************5559"],
               ["4111111111111111", "5500005555555559"], [first[0][0], second[0][0]])
        check("two cursors at once", 1, await connection.fetchval("SELECT 1"))
        check("the rest of a cursor", [(None,)], [tuple(row) for row in await cursor.fetch(10)])


async def notifications(url, connection):
    heard = asyncio.get_running_loop().create_future()

    def hear(_connection, _pid, channel, payload):
        heard.set_result((channel, payload))
    await connection.add_listener("asyncpg_news", hear)
    speaker = await asyncpg.connect(url)
    await speaker.execute("NOTIFY asyncpg_news, 'hello'")
    await speaker.close()
    check("listen and notify", ("asyncpg_news", "hello"), await asyncio.wait_for(heard, 5))
    await connection.remove_listener("asyncpg_news", hear)


async def cancellation(connection):
    began = time.monotonic()
    # A time-out makes asyncpg send a cancel request on a connection of its own.
    try:
        await connection.fetchval(
            "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0", timeout=0.5)
        outcome = "an answer"
    except asyncio.TimeoutError:
        outcome = "time-out"
    check("cancelled", "time-out", outcome)
    check("usable after a cancel", 1, await connection.fetchval("SELECT 1"))
    check("cancelled soon", True, time.monotonic() - began < 8)


async def outside():
    """What others do to a session: approve, change a table, end it."""
    connection = await asyncpg.connect(URL)
    before = await connection.fetchval("SELECT n FROM ticks")
    soon("approve held:asyncpg")
    await connection.execute(checks.held("asyncpg"))
    check("a held command ran once", before + 1, await connection.fetchval("SELECT n FROM ticks"))
    statement = await connection.prepare("SELECT what FROM shapes WHERE id = $1")
    star = await connection.prepare("SELECT * FROM shapes WHERE id = $1")
    check("both run", ("row 1", True), (await statement.fetchval(1), len(await star.fetchrow(1)) >= 2))
    please(checks.column("asyncpg"))
    check("a statement outlives a new column", "row 2", await statement.fetchval(2))
    error = await refusal(star.fetchrow(1))
    check("a star says that its columns changed", True, getattr(error, "sqlstate", None) in (None, "0A000"))
    for _ in range(20):
        found = (await connection.fetchrow("SELECT * FROM shapes WHERE id = 1"))[-1]
        if found is not None:
            break
        await asyncio.sleep(0.25)
    check("and has them soon", 7, found)
    please("kill")
    try:
        await connection.fetchval("SELECT 'forbidden:killed'")
        outcome = "an answer"
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        outcome = "an error"
    check("a killed session is an error", "an error", outcome)
    connection = await asyncpg.connect(URL)
    masked("after a reconnect", "************1111", checks.CARD,
           await connection.fetchval("SELECT card FROM customers WHERE id = 1"))
    await connection.close()


async def main():
    connection = await asyncpg.connect(URL, server_settings={"application_name": "agent_asyncpg"})
    # What an earlier run left.
    await connection.execute("DELETE FROM orders WHERE item LIKE 'asyncpg-%'")
    await reading(connection)
    await denials(connection)
    await transactions(connection)
    await copies(connection)
    await cursors(connection)
    await notifications(URL, connection)
    await cancellation(connection)
    await connection.close()
    connections = await asyncio.gather(*(asyncpg.connect(URL) for _ in range(8)))
    answers = await asyncio.gather(*(c.fetchval("SELECT card FROM customers WHERE id = $1", 1 + n % 2)
                                     for n, c in enumerate(connections)))
    masked("eight at once", ["************1111", "************5559"] * 4, ["4111111111111111", "5500005555555559"] * 4, answers)
    await asyncio.gather(*(c.close() for c in connections))
    if not DIRECT:
        await outside()
    checks.done()


asyncio.run(main())
