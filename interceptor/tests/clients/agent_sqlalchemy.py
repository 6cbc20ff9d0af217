"""An agent that uses SQLAlchemy's ORM, over psycopg2 and over psycopg 3: python agent_sqlalchemy.py URL [--direct]

SQLAlchemy asks the catalog a lot, opens transactions on its own and checks connections out of a pool. --direct: see
agent_psycopg.py.
"""

import io
import select as readiness
import threading
import time
from decimal import Decimal

from sqlalchemy import ForeignKey, MetaData, String, create_engine, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

import checks
from checks import CARD, DIRECT, URL, check, check_refusal, masked


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]
    card: Mapped[str | None]
    ssn: Mapped[str | None] = mapped_column(String(11))
    balance: Mapped[Decimal | None]
    orders: Mapped[list["Order"]] = relationship(back_populates="buyer")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    item: Mapped[str]
    amount: Mapped[Decimal | None]
    note: Mapped[str | None]
    buyer: Mapped[Customer] = relationship(back_populates="orders")


class Scratch(Base):
    __tablename__ = "scratch"
    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]


class Unmade(DeclarativeBase):
    pass


class Gadget(Unmade):
    __tablename__ = "forbidden_gadgets"
    id: Mapped[int] = mapped_column(primary_key=True)


def refusal(run):
    """What the driver raised, out of SQLAlchemy's wrapping."""
    error = checks.refusal(run, DBAPIError)
    return error and error.orig


def state(error):
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def inspection(engine):
    inspector = inspect(engine)
    check("inspect: tables", True, {"customers", "orders", "scratch"} <= set(inspector.get_table_names()))
    check("inspect: views", ["spending"], inspector.get_view_names())
    check("inspect: columns", ["id", "name", "email", "card", "ssn", "balance"],
          [column["name"] for column in inspector.get_columns("customers")])
    check("inspect: primary key", ["id"], inspector.get_pk_constraint("orders")["constrained_columns"])
    check("inspect: foreign keys", ["customers"], [key["referred_table"] for key in inspector.get_foreign_keys("orders")])
    check("inspect: indexes", [], inspector.get_indexes("orders"))
    check("inspect: unique, checks", ([], []),
          (inspector.get_unique_constraints("orders"), inspector.get_check_constraints("orders")))
    check("inspect: comment", {"text": None}, inspector.get_table_comment("orders"))
    check("inspect: enums, sequences", True, "orders_id_seq" in inspector.get_sequence_names())
    metadata = MetaData()
    metadata.reflect(engine, only=["orders"], views=False)
    check("reflect", {"orders", "customers"}, set(metadata.tables))
    with engine.connect() as connection:
        row = connection.execute(select(metadata.tables["customers"].c.card).order_by(metadata.tables["customers"].c.id)).first()
        masked("reflected table, masked", ("************1111",), (CARD,), tuple(row))
    Base.metadata.create_all(engine)
    check("create_all of what is there", True, True)
    if not DIRECT:
        check("create_all of what is not", "42501", state(refusal(lambda: Unmade.metadata.create_all(engine))))


def objects(engine, kind):
    with Session(engine) as session:
        ada = session.get(Customer, 1)
        check("get: clear", (1, "Ada Lovelace", Decimal("1200.50")), (ada.id, ada.name, ada.balance))
        masked("get: masked", ("[masked:pii]", "************1111", "***"), ("ada@example.com", CARD, "078-05-1120"),
               (ada.email, ada.card, ada.ssn))
        check("lazy load", True, {"engine", "loom"} <= {order.item for order in ada.orders})
        everybody = session.scalars(select(Customer).options(selectinload(Customer.orders)).order_by(Customer.id)).all()
        masked("eager load", ["************1111", "************5559", None], [CARD, "5500005555555559", None],
               [customer.card for customer in everybody])
        pairs = session.execute(select(Order.item, Customer.card).join(Order.buyer).where(Order.id == 1)).all()
        masked("join", [("engine", "************1111")], [("engine", CARD)], [tuple(pair) for pair in pairs])
        masked("function", "[masked:pii]", "ADA@EXAMPLE.COM",
               session.scalar(select(func.upper(Customer.email)).where(Customer.id == 1)))
        session.add_all([Order(customer=1, item=f"{kind}-{n}", amount=Decimal(n)) for n in range(30)])
        session.flush()
        check("flush, then count", 30, session.scalar(select(func.count()).where(Order.item.like(f"{kind}-%"))))
        session.commit()
        order = session.scalars(select(Order).where(Order.item == f"{kind}-3")).one()
        order.amount = Decimal("3.50")
        session.commit()
        check("update of an object", Decimal("3.50"), session.scalar(select(Order.amount).where(Order.item == f"{kind}-3")))
        order = session.scalars(select(Order).where(Order.item == f"{kind}-4").with_for_update()).one()
        session.delete(order)
        session.commit()
        check("delete of an object", 29, session.scalar(select(func.count()).where(Order.item.like(f"{kind}-%"))))


def denials(engine, kind):
    with Session(engine) as session:
        session.add(Order(customer=1, item=f"{kind}-lost"))
        session.flush()
        session.get(Customer, 1).name = "forbidden:Mallory"
        check_refusal("denied flush", refusal(session.flush))
        session.rollback()
        check("rolled back", 0, session.scalar(select(func.count()).where(Order.item == f"{kind}-lost")))
        check("object is as it was", "Ada Lovelace", session.get(Customer, 1).name)
        session.add(Order(customer=1, item=f"{kind}-kept"))
        session.flush()

        def nested():
            with session.begin_nested():
                session.execute(update(Customer).where(Customer.id == 1).values(name="forbidden:Mallory"))
        check_refusal("denied in a savepoint", refusal(nested))
        session.commit()
        check("what stood before it stays", 1, session.scalar(select(func.count()).where(Order.item == f"{kind}-kept")))
        session.add(Customer(id=9, name="forbidden:Mallory"))
        check_refusal("denied add", refusal(session.commit))
        session.rollback()
        check_refusal("denied text", refusal(lambda: session.execute(text(checks.denied("sqlalchemy", kind)))))
        check("failed until the end", "25P02", state(refusal(lambda: session.execute(text("SELECT 1")))))
        session.rollback()
        check("usable after denials", 1, session.scalar(text("SELECT 1")))
        check("customers are as they were", 3, session.scalar(select(func.count()).select_from(Customer)))


def streams(engine):
    with Session(engine) as session:
        found = session.scalars(select(Scratch).where(Scratch.what.like("row %")).order_by(Scratch.id)
                                .execution_options(yield_per=64))
        check("yield_per", list(range(1, 1001)), [row.id for row in found])
        found = session.scalars(select(Customer.card).order_by(Customer.id).execution_options(stream_results=True, yield_per=1))
        masked("stream, masked", ["************1111", "************5559", None], [CARD, "5500005555555559", None], list(found))
        half = session.scalars(select(Scratch).execution_options(yield_per=10))
        next(half)
        half.close()
        check("a stream that is left", 1, session.scalar(text("SELECT 1")))


def copied_out(cursor, statement):
    """What a COPY gives, by whichever way the driver has."""
    if hasattr(cursor, "copy_expert"):
        out = io.StringIO()
        cursor.copy_expert(statement, out)
        return out.getvalue()
    with cursor.copy(statement) as copy:
        return b"".join(bytes(block) for block in copy).decode()


def copied_in(cursor, statement, rows):
    if hasattr(cursor, "copy_expert"):
        return cursor.copy_expert(statement, io.StringIO(rows))
    with cursor.copy(statement) as copy:
        copy.write(rows)


def copies(engine, kind):
    """SQLAlchemy has no COPY of its own: people use the driver's, on a connection of the pool."""
    raw = engine.raw_connection()
    with raw.cursor() as cursor:
        masked("copy out, masked", "1\t[masked:pii]\t************1111", f"1\tada@example.com\t{CARD}",
               copied_out(cursor, "COPY customers (id, email, card) TO STDOUT").split("\n")[0])
        copied_in(cursor, "COPY scratch (id, what) FROM STDIN", "".join(f"{n}\t{kind}\n" for n in range(600)))
        cursor.execute(f"DELETE FROM scratch WHERE what = '{kind}'")
        check("copy in", 600, cursor.rowcount)
        raw.commit()
        check_refusal("denied copy in", checks.refusal(lambda: copied_in(
            cursor, f"COPY customers (id, name) FROM STDIN /* forbidden:{kind}:copy */", "77\tMallory\n"), Exception))
        raw.rollback()
        cursor.execute("SELECT 1")
        check("usable after copies", (1,), cursor.fetchone())
    raw.close()


def cancellation(engine):
    """Nor has it a cancel: the driver's again, while SQLAlchemy waits for a result."""
    with engine.connect() as connection:
        own = connection.connection.driver_connection
        timer = threading.Timer(0.5, own.cancel)
        timer.start()
        began = time.monotonic()
        error = refusal(lambda: connection.execute(text(checks.LONG)))
        timer.join()
        check("cancelled", "57014", state(error))
        check("cancelled soon", True, time.monotonic() - began < 8)
        connection.rollback()
        check("usable after a cancel", 1, connection.scalar(text("SELECT 1")))


def notifications(engine, kind):
    """News come on the driver's connection."""
    channel = kind.replace("-", "_")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, engine.connect() as speaker:
        connection.execute(text(f"LISTEN {channel}"))
        run(speaker, f"NOTIFY {channel}, 'hello'")
        own = connection.connection.driver_connection
        if callable(own.notifies):
            heard = [news.payload for news in own.notifies(timeout=5, stop_after=1)]
        else:
            readiness.select([own], [], [], 5)
            own.poll()
            heard = [news.payload for news in own.notifies]
        check("listen and notify", ["hello"], heard)
        connection.execute(text(f"UNLISTEN {channel}"))


def run(connection, statement):
    """One statement in a transaction of its own."""
    found = connection.exec_driver_sql(statement)
    rows = [tuple(row) for row in found] if found.returns_rows else None
    connection.commit()
    return rows


def main():
    for driver in ("psycopg2", "psycopg"):
        kind = f"alchemy-{driver}"
        engine = create_engine(URL.replace("postgres://", f"postgresql+{driver}://"), pool_size=2)
        with Session(engine) as session:
            session.execute(text(f"DELETE FROM orders WHERE item LIKE '{kind}-%'"))
            session.commit()
        inspection(engine)
        objects(engine, kind)
        denials(engine, kind)
        streams(engine)
        copies(engine, kind)
        cancellation(engine)
        notifications(engine, kind)
        if not DIRECT:
            outside(engine, driver)
        engine.dispose()
    checks.done()


def outside(engine, driver):
    """Others end the sessions of a pool: it finds out, and opens new ones."""
    name = f"alchemy_{driver}"
    with engine.connect() as connection:
        before = run(connection, "SELECT n FROM ticks")[0][0]
        checks.soon(f"approve held:{name}")
        run(connection, checks.held(name))
        check("a held command ran once", before + 1, run(connection, "SELECT n FROM ticks")[0][0])
        for _ in range(7):
            run(connection, "SELECT id, what FROM shapes WHERE id = 1")
        checks.please(checks.column(name))
        check("a statement outlives a new column", [(1, "row 1")], run(connection, "SELECT id, what FROM shapes WHERE id = 1"))
        checks.please("kill")
        error = checks.refusal(lambda: run(connection, "SELECT 'forbidden:killed'"), DBAPIError)
        check("a killed session is a lost connection", True, error is not None and error.connection_invalidated)
        connection.rollback()
        masked("the pool reconnects", [("************1111",)], [(CARD,)],
               run(connection, "SELECT card FROM customers WHERE id = 1"))


main()
