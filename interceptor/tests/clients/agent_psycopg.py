"""An agent that uses psycopg 3: python agent_psycopg.py URL [--direct]

Checks, line by line, what an agent of the stage sees through interceptor. With --direct it runs against a bare server on
which the role may not write to `customers`: everything but masks and the words of a refusal is then the same.
"""

import threading
import time

import psycopg
from psycopg import pq, sql

import checks
from checks import DIRECT, URL, check, check_refusal, masked

def refusal(run):
    return checks.refusal(run, psycopg.Error)


def denied(marker):
    return checks.denied("psycopg", marker)


def reading(connection, binary):
    kind = "binary" if binary else "text"
    cursor = connection.cursor(binary=binary)
    check(f"{kind}: clear columns", [(1, "Ada Lovelace"), (2, "Grace Hopper"), (3, "Alan Turing")],
          cursor.execute("SELECT id, name FROM customers ORDER BY id").fetchall())
    for number, name in ((1, "Ada Lovelace"), (2, "Grace Hopper"), (1, "Ada Lovelace")):
        row = cursor.execute("SELECT name FROM customers WHERE id = %s", (number,), prepare=True).fetchone()
        check(f"{kind}: prepared, id {number}", (name,), row)
    row = cursor.execute("SELECT id, name, email, card, ssn, balance FROM customers WHERE id = %s", (1,)).fetchone()
    check(f"{kind}: id, name", (1, "Ada Lovelace"), row[:2])
    masked(f"{kind}: email", "[masked:pii]", "ada@example.com", row[2])
    masked(f"{kind}: card", "************1111", "4111111111111111", row[3])
    masked(f"{kind}: ssn in varchar(11)", "***", "078-05-1120", row[4])
    check(f"{kind}: numeric", "1200.50", str(row[5]))
    row = cursor.execute("SELECT email, card, ssn, balance FROM customers WHERE id = 3").fetchone()
    check(f"{kind}: NULL stays NULL", (None, None, None), row[:3])
    row = cursor.execute("SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1").fetchone()
    masked(f"{kind}: upper(email)", "[masked:pii]", "ADA@EXAMPLE.COM", row[0])
    masked(f"{kind}: length(card)", None, 16, row[1])
    masked(f"{kind}: card || ''", "[masked:card]", "4111111111111111", row[2])
    check(f"{kind}: id + 1", 2, row[3])
    rows = cursor.execute("SELECT note FROM orders WHERE id <= 3 ORDER BY id").fetchall()
    masked(f"{kind}: card in free text", "paid with ***************1111", "paid with 4111 1111 1111 1111", rows[0][0])
    check(f"{kind}: other notes", [(None,), ("gift",)], rows[1:])
    rows = cursor.execute("SELECT * FROM spending ORDER BY id").fetchall()
    check(f"{kind}: view, ids", [1, 2], [row[0] for row in rows])
    check(f"{kind}: view, no card", DIRECT, "4111111111111111" in str(rows))
    check(f"{kind}: empty result", [], cursor.execute("SELECT card FROM customers WHERE id = 99").fetchall())


def denials(connection):
    check_refusal("denied write", refusal(lambda: connection.execute(denied("plain"))))
    check("usable after a denial", (1,), connection.execute("SELECT 1").fetchone())
    prepared = lambda: connection.execute(
        "UPDATE customers SET name = %s WHERE id = %s /* forbidden:psycopg:bound */", ("Mallory", 1), prepare=True)
    check_refusal("denied, with values", refusal(prepared))
    check_refusal("denied, the same again", refusal(prepared))
    check("usable after denied values", (5,), connection.execute("SELECT %s::int", (5,)).fetchone())
    check_refusal("denied insert", refusal(lambda: connection.execute(
        "INSERT INTO customers VALUES (9, 'Mallory') /* forbidden:psycopg:insert */")))
    check_refusal("denied delete", refusal(lambda: connection.execute(
        "DELETE FROM customers WHERE id = 1 /* forbidden:psycopg:delete */")))
    check_refusal("denied in a CTE", refusal(lambda: connection.execute(
        "WITH gone AS (DELETE FROM customers WHERE id = 1 RETURNING id) SELECT * FROM gone /* forbidden:psycopg:cte */")))
    check_refusal("server files", refusal(lambda: connection.execute(
        "SELECT pg_read_file('/etc/passwd') /* forbidden:psycopg:file */")), rule="")
    if not DIRECT:
        error = refusal(lambda: connection.execute("DO $$ BEGIN PERFORM 1; END $$ /* forbidden:psycopg:do */"))
        check("DO block", "42501", getattr(error, "sqlstate", None))
    check("name is untouched", ("Ada Lovelace",), connection.execute("SELECT name FROM customers WHERE id = 1").fetchone())


def denial_in_transaction(url):
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO orders (customer, item) VALUES (1, 'psycopg-lost')")
        check_refusal("denied in a transaction", refusal(lambda: connection.execute(denied("transaction"))))
        check("transaction has failed", pq.TransactionStatus.INERROR, connection.info.transaction_status)
        error = refusal(lambda: connection.execute("SELECT 1"))
        check("failed until the end", "25P02", getattr(error, "sqlstate", None))
        connection.commit()
        check("idle after COMMIT", pq.TransactionStatus.IDLE, connection.info.transaction_status)
        count = connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-lost'").fetchone()
        check("COMMIT of a failed transaction rolls back", (0,), count)
        connection.rollback()
        # A savepoint heals it.
        connection.execute("INSERT INTO orders (customer, item) VALUES (1, 'psycopg-kept')")
        connection.execute("SAVEPOINT before")
        check_refusal("denied after a savepoint", refusal(lambda: connection.execute(denied("savepoint"))))
        connection.execute("ROLLBACK TO SAVEPOINT before")
        check("healed by the savepoint", pq.TransactionStatus.INTRANS, connection.info.transaction_status)
        connection.commit()
        count = connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-kept'").fetchone()
        check("what stood before the savepoint is there", (1,), count)


def pipelines(connection):
    with connection.pipeline():
        cursors = [connection.execute("SELECT card FROM customers WHERE id = %s", (number,)) for number in (1, 2, 3)]
        rows = [cursor.fetchone()[0] for cursor in cursors]
    masked("pipeline: masked", ["************1111", "************5559", None],
           ["4111111111111111", "5500005555555559", None], rows)

    def broken():
        with connection.pipeline():
            connection.execute("INSERT INTO orders (customer, item) VALUES (1, 'psycopg-pipe')")
            connection.execute(denied("pipeline"))
            connection.execute("SELECT 'forbidden:psycopg:after'")
    check_refusal("denied in a pipeline", refusal(broken))
    count = connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-pipe'").fetchone()
    check("a pipeline is one transaction", (0,), count)
    with connection.pipeline() as pipeline:
        first = connection.execute("INSERT INTO orders (customer, item) VALUES (1, 'psycopg-synced') RETURNING item")
        pipeline.sync()
        bad = connection.cursor()
        error = refusal(lambda: (bad.execute(denied("synced")), pipeline.sync()))
        last = connection.execute("SELECT 7")
        check("before the sync", ("psycopg-synced",), first.fetchone())
        check("after the sync", (7,), last.fetchone())
    check_refusal("denied between syncs", error)
    count = connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-synced'").fetchone()
    check("what was synced stays", (1,), count)
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO orders (customer, item, amount) VALUES (%s, %s, %s) RETURNING item",
                       [(1, f"psycopg-many-{n}", n) for n in range(20)], returning=True)
    items = []
    while True:
        items += [row[0] for row in cursor.fetchall()]
        if not cursor.nextset():
            break
    check("executemany", [f"psycopg-many-{n}" for n in range(20)], items)


def transactions(connection):
    with connection.transaction():
        row = connection.execute("INSERT INTO orders (customer, item, amount) VALUES (2, 'psycopg-order', 1.5) RETURNING id").fetchone()
        check("returning", True, isinstance(row[0], int))
    check("committed", (1,), connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-order'").fetchone())
    try:
        with connection.transaction():
            connection.execute("INSERT INTO orders (customer, item) VALUES (2, 'psycopg-rolled')")
            raise psycopg.Rollback
    except psycopg.Rollback:
        pass
    check("rolled back", (0,), connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-rolled'").fetchone())
    cursor = connection.execute("UPDATE orders SET amount = 2 WHERE item = 'psycopg-order'")
    check("row count", 1, cursor.rowcount)
    error = refusal(lambda: connection.execute("SELECT 1 / (id - id) FROM orders"))
    check("the server's own error", "22012", getattr(error, "sqlstate", None))


def several_statements(connection):
    cursor = connection.execute("SELECT 1; SELECT card FROM customers WHERE id = 1; SELECT 'last'")
    rows = [cursor.fetchone()[0]]
    while cursor.nextset():
        rows.append(cursor.fetchone()[0])
    masked("several statements", [1, "************1111", "last"], [1, "4111111111111111", "last"], rows)
    text = f"INSERT INTO orders (customer, item) VALUES (1, 'psycopg-several'); {denied('several')}; SELECT 1"
    check_refusal("one of several is denied", refusal(lambda: connection.execute(text)))
    count = connection.execute("SELECT count(*) FROM orders WHERE item = 'psycopg-several'").fetchone()
    check("none of several ran", (0,), count)


def copies(connection):
    cursor = connection.cursor()
    with cursor.copy("COPY (SELECT id, what FROM scratch WHERE id <= 3 ORDER BY id) TO STDOUT") as copy:
        copy.set_types(["int4", "text"])
        check("copy out", [(1, "row 1"), (2, "row 2"), (3, "row 3")], list(copy.rows()))
    with cursor.copy("COPY scratch TO STDOUT (FORMAT csv)") as copy:
        check("copy out, whole", True, sum(bytes(block).count(b"\n") for block in copy) >= 1000)
    with cursor.copy("COPY customers (id, email, card) TO STDOUT") as copy:
        line = b"".join(bytes(block) for block in copy).split(b"\n")[0]
    masked("copy out, masked", b"1\t[masked:pii]\t************1111", b"1\tada@example.com\t4111111111111111", line)
    with cursor.copy("COPY scratch (id, what) FROM STDIN") as copy:
        for number in range(2000):
            copy.write_row((100_000 + number, "psycopg"))
    check("copy in", (2000,), connection.execute("SELECT count(*) FROM scratch WHERE what = 'psycopg'").fetchone())
    with cursor.copy("COPY scratch (id, what) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        copy.write_row((1, "psycopg-binary"))
    check("copy in, binary", (1,), connection.execute("SELECT count(*) FROM scratch WHERE what = 'psycopg-binary'").fetchone())

    def denied_copy():
        with cursor.copy("COPY customers (id, name) FROM STDIN /* forbidden:psycopg:copy */") as copy:
            copy.write_row((77, "Mallory"))
    check_refusal("denied copy in", refusal(denied_copy))

    def broken_off():
        with cursor.copy("COPY scratch (id, what) FROM STDIN") as copy:
            copy.write_row((5, "psycopg-half"))
            raise psycopg.DataError("enough")
    refusal(broken_off)
    check("usable after copies", (0,), connection.execute("SELECT count(*) FROM scratch WHERE what = 'psycopg-half'").fetchone())


def cursors(url):
    with psycopg.connect(url) as connection:
        with connection.cursor(name="walk") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT id FROM scratch WHERE id <= 1000 AND what LIKE 'row %' ORDER BY id")
            check("server-side cursor", list(range(1, 1001)), [row[0] for row in cursor])
        with connection.cursor(name="masked_walk", binary=True) as cursor:
            cursor.execute("SELECT card FROM customers ORDER BY id")
            masked("server-side cursor, masked", [("************1111",), ("************5559",)],
                   [("4111111111111111",), ("5500005555555559",)], cursor.fetchmany(2))


def notifications(url):
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as speaker:
        listener.execute("LISTEN psycopg_news")
        speaker.execute("NOTIFY psycopg_news, 'hello'")
        heard = [(news.channel, news.payload) for news in listener.notifies(timeout=5, stop_after=1)]
        check("listen and notify", [("psycopg_news", "hello")], heard)


def cancellation(connection):
    timer = threading.Timer(0.5, connection.cancel_safe)
    timer.start()
    began = time.monotonic()
    error = refusal(lambda: connection.execute(
        "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0"))
    timer.join()
    check("cancelled", "57014", getattr(error, "sqlstate", None))
    check("cancelled soon", True, time.monotonic() - began < 8)
    check("usable after a cancel", (1,), connection.execute("SELECT 1").fetchone())


def statements_by_name(connection):
    connection.execute("PREPARE by_name (int) AS SELECT card FROM customers WHERE id = $1")
    row = connection.execute("EXECUTE by_name(1)").fetchone()
    masked("EXECUTE", ("************1111",), ("4111111111111111",), row)
    connection.execute("DEALLOCATE by_name")
    error = refusal(lambda: connection.execute("EXECUTE by_name(1)"))
    # What is not known is denied before the server can say that it does not know it either.
    check("EXECUTE of nothing", True, getattr(error, "sqlstate", None) in ("26000", "42501"))
    many = [connection.execute(sql.SQL("SELECT {}, %s::int").format(n), (n,), prepare=True).fetchone() for n in range(150)]
    check("more statements than the driver keeps", [(n, n) for n in range(150)], many)


def outside():
    def connect():
        connection = psycopg.connect(URL, autocommit=True)
        connection.prepare_threshold = 2
        return connection

    def run(connection, text):
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else None
    checks.from_outside("psycopg", connect, run, psycopg.Error)


def main():
    with psycopg.connect(URL, autocommit=True, application_name="agent_psycopg") as connection:
        # What an earlier run left.
        connection.execute("DELETE FROM orders WHERE item LIKE 'psycopg-%'")
        reading(connection, binary=False)
        reading(connection, binary=True)
        denials(connection)
        pipelines(connection)
        transactions(connection)
        several_statements(connection)
        copies(connection)
        statements_by_name(connection)
        cancellation(connection)
        connection.execute("DELETE FROM scratch WHERE what LIKE 'psycopg%'")
    denial_in_transaction(URL)
    cursors(URL)
    notifications(URL)
    outside()
    checks.done()


main()
