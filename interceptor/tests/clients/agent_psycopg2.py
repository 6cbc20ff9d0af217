"""An agent that uses psycopg2: python agent_psycopg2.py URL [--direct]

psycopg2 speaks the simple protocol alone, with values written into the text. --direct: see agent_psycopg.py.
"""

import io
import select
import threading
import time
from decimal import Decimal

import psycopg2
import psycopg2.extensions
import psycopg2.extras

import checks
from checks import CARD, LONG, URL, check, check_refusal, masked


def denied(marker):
    return checks.denied("psycopg2", marker)


def refusal(run):
    return checks.refusal(run, psycopg2.Error)


def run(connection, text, values=None):
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else None


def connect(autocommit=True):
    connection = psycopg2.connect(URL, application_name="agent_psycopg2")
    connection.autocommit = autocommit
    return connection


def reading(connection):
    check("clear columns", [(1, "Ada Lovelace"), (2, "Grace Hopper"), (3, "Alan Turing")],
          run(connection, "SELECT id, name FROM customers ORDER BY id"))
    row = run(connection, "SELECT id, name, email, card, ssn, balance FROM customers WHERE id = %s", (1,))[0]
    check("id, name", (1, "Ada Lovelace"), row[:2])
    masked("email", "[masked:pii]", "ada@example.com", row[2])
    masked("card", "************1111", CARD, row[3])
    masked("ssn in varchar(11)", "***", "078-05-1120", row[4])
    check("numeric", Decimal("1200.50"), row[5])
    check("NULL stays NULL", (None, None, None), run(connection, "SELECT email, card, ssn FROM customers WHERE id = 3")[0])
    row = run(connection, "SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1")[0]
    masked("computed", ("[masked:pii]", None, "[masked:card]", 2), ("ADA@EXAMPLE.COM", 16, CARD, 2), row)
    row = run(connection, "SELECT note FROM orders WHERE id = 1")[0]
    masked("card in free text", ("paid with ***************1111",), ("paid with 4111 1111 1111 1111",), row)
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute("SELECT card FROM spending ORDER BY id")
        masked("view, as dictionaries", {"card": "************1111"}, {"card": CARD}, dict(cursor.fetchone()))


def denials(connection):
    check_refusal("denied write", refusal(lambda: run(connection, denied("plain"))))
    check("usable after a denial", [(1,)], run(connection, "SELECT 1"))
    bound = "UPDATE customers SET name = %s WHERE id = %s /* forbidden:psycopg2:bound */"
    check_refusal("denied, with values", refusal(lambda: run(connection, bound, ("Mallory", 1))))
    text = f"INSERT INTO orders (customer, item) VALUES (1, 'psycopg2-several'); {denied('several')}; SELECT 1"
    check_refusal("one of several is denied", refusal(lambda: run(connection, text)))
    check("none of several ran", [(0,)], run(connection, "SELECT count(*) FROM orders WHERE item = 'psycopg2-several'"))
    with connection.cursor() as cursor:
        many = "UPDATE customers SET name = %s WHERE id = %s /* forbidden:psycopg2:batch */"
        check_refusal("denied in a batch", refusal(
            lambda: psycopg2.extras.execute_batch(cursor, many, [("Mallory", n) for n in range(9)], page_size=3)))
        psycopg2.extras.execute_values(cursor, "INSERT INTO orders (customer, item, amount) VALUES %s RETURNING item",
                                       [(1, f"psycopg2-{n}", n) for n in range(50)], page_size=20)
        check("values by the page", "psycopg2-49", cursor.fetchall()[-1][0])
    check("name is untouched", [("Ada Lovelace",)], run(connection, "SELECT name FROM customers WHERE id = 1"))


def transactions():
    connection = connect(autocommit=False)
    run(connection, "INSERT INTO orders (customer, item) VALUES (1, 'psycopg2-lost')")
    check_refusal("denied in a transaction", refusal(lambda: run(connection, denied("transaction"))))
    check("transaction has failed", psycopg2.extensions.TRANSACTION_STATUS_INERROR, connection.get_transaction_status())
    check("failed until the end", "25P02", getattr(refusal(lambda: run(connection, "SELECT 1")), "pgcode", None))
    connection.commit()
    check("COMMIT of a failed transaction rolls back", [(0,)],
          run(connection, "SELECT count(*) FROM orders WHERE item = 'psycopg2-lost'"))
    run(connection, "INSERT INTO orders (customer, item) VALUES (1, 'psycopg2-kept'); SAVEPOINT before")
    check_refusal("denied after a savepoint", refusal(lambda: run(connection, denied("savepoint"))))
    run(connection, "ROLLBACK TO SAVEPOINT before")
    connection.commit()
    check("what stood before the savepoint is there", [(1,)],
          run(connection, "SELECT count(*) FROM orders WHERE item = 'psycopg2-kept'"))
    with connection.cursor(name="walk") as cursor:
        cursor.itersize = 64
        cursor.execute("SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id")
        check("server-side cursor", list(range(1, 1001)), [row[0] for row in cursor])
    with connection.cursor(name="scrolled", scrollable=True) as cursor:
        cursor.execute("SELECT card FROM customers ORDER BY id")
        cursor.scroll(1)
        masked("scrolled cursor, masked", ("************5559",), ("5500005555555559",), cursor.fetchone())
        cursor.scroll(-2)
        masked("scrolled back", ("************1111",), (CARD,), cursor.fetchone())
    connection.rollback()
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True)
    error = refusal(lambda: run(connection, "INSERT INTO orders (customer, item) VALUES (1, 'psycopg2-lost')"))
    check("a session of its own kind", "25006", getattr(error, "pgcode", None))
    connection.close()


def copies(connection):
    out = io.StringIO()
    with connection.cursor() as cursor:
        cursor.copy_expert("COPY (SELECT id, what FROM scratch WHERE id <= 3 ORDER BY id) TO STDOUT", out)
        check("copy out", "1\trow 1\n2\trow 2\n3\trow 3\n", out.getvalue())
        out = io.StringIO()
        cursor.copy_to(out, "customers", columns=("id", "email", "card"))
        masked("copy out, masked", "1\t[masked:pii]\t************1111", f"1\tada@example.com\t{CARD}",
               out.getvalue().split("\n")[0])
        cursor.copy_from(io.StringIO("".join(f"{n}\tpsycopg2\n" for n in range(3000))), "scratch", columns=("id", "what"))
        check("copy in", [(3000,)], run(connection, "SELECT count(*) FROM scratch WHERE what = 'psycopg2'"))
        check_refusal("denied copy in", refusal(lambda: cursor.copy_expert(
            "COPY customers (id, name) FROM STDIN /* forbidden:psycopg2:copy */", io.StringIO("77\tMallory\n"))))
    check("usable after copies", [(1,)], run(connection, "SELECT 1"))
    run(connection, "DELETE FROM scratch WHERE what = 'psycopg2'")


def notifications(connection):
    speaker = connect()
    run(connection, "LISTEN psycopg2_news")
    run(speaker, "NOTIFY psycopg2_news, 'hello'")
    if select.select([connection], [], [], 5)[0]:
        connection.poll()
    check("listen and notify", ["hello"], [news.payload for news in connection.notifies])
    run(connection, "UNLISTEN psycopg2_news")
    speaker.close()


def cancellation(connection):
    timer = threading.Timer(0.5, connection.cancel)
    timer.start()
    began = time.monotonic()
    check("cancelled", "57014", getattr(refusal(lambda: run(connection, LONG)), "pgcode", None))
    timer.join()
    check("cancelled soon", True, time.monotonic() - began < 8)
    check("usable after a cancel", [(1,)], run(connection, "SELECT 1"))


def main():
    connection = connect()
    run(connection, "DELETE FROM orders WHERE item LIKE 'psycopg2-%'")
    reading(connection)
    denials(connection)
    transactions()
    copies(connection)
    notifications(connection)
    cancellation(connection)
    connection.close()
    checks.from_outside("psycopg2", connect, run, psycopg2.Error)
    checks.done()


main()
