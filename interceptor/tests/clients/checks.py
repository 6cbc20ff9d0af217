"""What the Python agents check with, whatever their driver: lines of `ok` and `FAIL`, and requests to the test.

An agent that needs something from outside prints `please ...` and goes on when it reads a line.
"""

import sys
import time

URL = sys.argv[1]
DIRECT = "--direct" in sys.argv
CARD = "4111111111111111"
LONG = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0"
failures = 0
unanswered = 0


def check(name, expected, got):
    global failures
    if expected == got:
        print(f"ok {name}", flush=True)
    else:
        failures += 1
        print(f"FAIL {name}: expected {expected!r} got {got!r}", flush=True)


def masked(name, masked_value, clear_value, got):
    check(name, clear_value if DIRECT else masked_value, got)


def please(wish):
    """Asks the test for something, and waits until it is done."""
    global unanswered
    soon(wish)
    while unanswered:
        sys.stdin.readline()
        unanswered -= 1


def soon(wish):
    """Asks the test for something that it does while this program goes on."""
    global unanswered
    if not DIRECT:
        print(f"please {wish}", flush=True)
        unanswered += 1


def refusal(run, kind):
    """The error of this kind that `run` raises."""
    try:
        run()
    except kind as error:
        return error
    return None


def check_refusal(name, error, rule="customers-are-read-only"):
    """Holds the error that libpq's drivers raise against what a denial has to say."""
    check(f"{name}: sqlstate", "42501", getattr(error, "sqlstate", None) or getattr(error, "pgcode", None))
    if DIRECT or error is None:
        return
    diagnosis = error.diag
    said = " ".join(str(part) for part in (diagnosis.message_primary, diagnosis.message_detail, diagnosis.message_hint))
    check(f"{name}: names the rule", True, rule in said)
    check(f"{name}: has the session", True, "session" in (diagnosis.message_detail or ""))
    check(f"{name}: severity", "ERROR", diagnosis.severity_nonlocalized)


def denied(driver, marker):
    return f"UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:{driver}:{marker} */"


def held(driver):
    return f"UPDATE ticks SET n = n + 1 /* held:{driver} */"


def column(driver):
    """A column that the table `shapes` gets while a statement on it stays prepared."""
    return f"sql ALTER TABLE shapes ADD COLUMN {driver} int DEFAULT 7"


def from_outside(driver, connect, run, kinds):
    """What others do to a session: approve, change a table, end it. `run(connection, text)` gives rows, or None."""
    if DIRECT:
        return
    connection = connect()
    before = run(connection, "SELECT n FROM ticks")[0][0]
    soon(f"approve held:{driver}")
    run(connection, held(driver))
    check("a held command ran once", before + 1, run(connection, "SELECT n FROM ticks")[0][0])
    named, all_of_it = "SELECT id, what FROM shapes WHERE id < 3 ORDER BY id", "SELECT * FROM shapes WHERE id = 1"
    for _ in range(7):
        run(connection, named), run(connection, all_of_it)
    please(column(driver))
    check("a statement outlives a new column", [(1, "row 1"), (2, "row 2")], [tuple(row) for row in run(connection, named)])
    # A driver that prepares is told so. One that does not gets a row that is masked whole: nobody here knows it yet.
    rows = refusal_or(lambda: run(connection, all_of_it), kinds)
    check("a star sees the new column, or says why not", True, rows == "0A000" or rows[0][0] in (1, None))
    check("and does soon", 7, soon_there(lambda n: run(connection, f"{all_of_it} AND id < {n + 9}")[0][-1]))
    please("kill")
    state = refusal_or(lambda: run(connection, "SELECT 'forbidden:killed'"), kinds)
    check("a killed session is an error", True, state is None or isinstance(state, str))
    connection = connect()
    row = run(connection, "SELECT id, card FROM customers WHERE id = 1")[0]
    check("after a reconnect", (1, "************1111"), tuple(row))
    return connection


def soon_there(read):
    """What comes to be read before long: a table that others changed is found out about within seconds."""
    for n in range(20):
        found = read(n)
        if found is not None:
            break
        time.sleep(0.25)
    return found


def refusal_or(run, kinds):
    """What `run` gives, or the SQLSTATE of its error, which is None where the connection broke."""
    try:
        return run()
    except kinds as error:
        return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def done():
    sys.exit(1 if failures else 0)
