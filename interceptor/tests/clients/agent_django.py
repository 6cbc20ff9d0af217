"""An agent that uses Django's ORM: python agent_django.py URL [--direct]

Django looks into the catalog for its migrations, nests transactions as savepoints and iterates with cursors of the
server. Run with values written into the text, as is its default, and bound by the server. --direct: see agent_psycopg.py.
"""

import io
import threading
import time
import urllib.parse
from decimal import Decimal

import django
import psycopg
from django.conf import settings

import checks
from checks import CARD, DIRECT, URL, check, check_refusal, masked

parts = urllib.parse.urlparse(URL)
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": parts.path.lstrip("/"), "USER": parts.username, "PASSWORD": parts.password,
    "HOST": parts.hostname, "PORT": parts.port,
    "OPTIONS": dict(urllib.parse.parse_qsl(parts.query)),
}
bound = {**database, "OPTIONS": {**database["OPTIONS"], "server_side_binding": True}}
settings.configure(DATABASES={"default": database, "bound": bound}, USE_TZ=True,
                   INSTALLED_APPS=["django.contrib.contenttypes", "__main__"], DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import Error, connections, models, transaction  # noqa: E402
from django.db.migrations.executor import MigrationExecutor  # noqa: E402
from django.db.models import Count, F, Sum  # noqa: E402
from django.db.models.functions import Length, Upper  # noqa: E402


class Customer(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField()
    email = models.TextField(null=True)
    card = models.TextField(null=True)
    ssn = models.CharField(max_length=11, null=True)
    balance = models.DecimalField(max_digits=10, decimal_places=2, null=True)

    class Meta:
        # Managed, so that Django groups by its primary key alone: to group by masked columns is to probe them.
        app_label = "__main__"
        db_table = "customers"


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, db_column="customer", related_name="bought")
    item = models.TextField()
    amount = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    note = models.TextField(null=True)

    class Meta:
        app_label = "__main__"
        managed = False
        db_table = "orders"


class Scratch(models.Model):
    id = models.IntegerField(primary_key=True)
    what = models.TextField()

    class Meta:
        app_label = "__main__"
        managed = False
        db_table = "scratch"


def refusal(run):
    """What the driver raised, out of Django's wrapping."""
    error = checks.refusal(run, Error)
    return error and error.__cause__


def introspection(alias):
    connection = connections[alias]
    seen = connection.introspection
    check("introspect: tables", True, {"customers", "orders", "scratch"} <= set(seen.table_names()))
    with connection.cursor() as cursor:
        check("introspect: columns", ["id", "name", "email", "card", "ssn", "balance"],
              [column.name for column in seen.get_table_description(cursor, "customers")])
        check("introspect: relations", {"customer": ("id", "customers")},
              {name: tuple(found[:2]) for name, found in seen.get_relations(cursor, "orders").items()})
        check("introspect: primary key", ["id"], seen.get_primary_key_columns(cursor, "orders"))
        check("introspect: constraints", True, len(seen.get_constraints(cursor, "orders")) >= 2)
        check("introspect: sequences", "orders_id_seq", seen.get_sequences(cursor, "orders")[0]["name"])
    out = io.StringIO()
    call_command("inspectdb", "orders", database=alias, stdout=out)
    check("inspectdb", True, "class Orders(models.Model)" in out.getvalue())
    executor = MigrationExecutor(connection)
    check("migrations: plan", True, len(executor.migration_plan(executor.loader.graph.leaf_nodes())) >= 2)
    check("migrations: none applied", {}, executor.recorder.applied_migrations())
    if not DIRECT:
        error = checks.refusal(lambda: call_command("migrate", database=alias, verbosity=0), Exception)
        check("migrate is refused", True, "42501" in str(error) or "sql:create" in str(error) or "permi" in str(error))
        check("usable after it", 3, Customer.objects.using(alias).count())


def reading(alias):
    people = Customer.objects.using(alias)
    ada = people.get(pk=1)
    check("get: clear", (1, "Ada Lovelace", Decimal("1200.50")), (ada.id, ada.name, ada.balance))
    masked("get: masked", ("[masked:pii]", "************1111", "***"), ("ada@example.com", CARD, "078-05-1120"),
           (ada.email, ada.card, ada.ssn))
    check("NULL stays NULL", (None, None), people.values_list("email", "card").get(pk=3))
    masked("computed", ("[masked:pii]", None), ("ADA@EXAMPLE.COM", 16),
           people.annotate(up=Upper("email"), size=Length("card")).values_list("up", "size").get(pk=1))
    orders = Order.objects.using(alias)
    masked("join", "************1111", CARD, orders.select_related("customer").get(pk=1).customer.card)
    masked("card in free text", "paid with ***************1111", "paid with 4111 1111 1111 1111", orders.get(pk=1).note)
    check("aggregates", True, people.annotate(n=Count("bought"), paid=Sum("bought__amount")).get(pk=2).n >= 1)
    check("prefetch", True, "loom" in {order.item for order in people.prefetch_related("bought").get(pk=1).bought.all()})
    check("exists, in_bulk, slices", (True, [1, 2], [2, 3]),
          (people.filter(name__icontains="ada").exists(), sorted(people.in_bulk([1, 2])),
           [one.id for one in people.order_by("id")[1:3]]))
    with transaction.atomic(using=alias):
        seen = [one.id for one in Scratch.objects.using(alias).filter(what__startswith="row ").order_by("id").iterator(chunk_size=64)]
    check("iterator", list(range(1, 1001)), seen)
    masked("iterator, masked", ["************1111", "************5559", None], [CARD, "5500005555555559", None],
           [one.card for one in people.order_by("id").iterator(chunk_size=1)])


def writing(alias, kind):
    orders = Order.objects.using(alias)
    check("bulk_create", 40, len(orders.bulk_create([Order(customer_id=1, item=f"{kind}-{n}", amount=n) for n in range(40)])))
    check("update with F", 1, orders.filter(item=f"{kind}-3").update(amount=F("amount") + 1))
    check("updated", Decimal(4), orders.get(item=f"{kind}-3").amount)
    order, made = orders.get_or_create(item=f"{kind}-own", defaults={"customer_id": 2})
    check("get_or_create", (True, True), (made, order.pk > 3))
    with transaction.atomic(using=alias):
        locked = orders.select_for_update().get(pk=order.pk)
        locked.note = "kept"
        locked.save()
    check("select_for_update and save", "kept", orders.get(pk=order.pk).note)
    locked.delete()
    changed = list(orders.filter(item__startswith=f"{kind}-").order_by("id")[:5])
    for one in changed:
        one.note = "bulk"
    check("bulk_update", 5, orders.bulk_update(changed, ["note"]))


def denials(alias, kind):
    people, orders = Customer.objects.using(alias), Order.objects.using(alias)
    check_refusal("denied update", refusal(lambda: people.filter(pk=1).update(name="forbidden:Mallory")))
    check_refusal("denied save", refusal(lambda: Customer(id=9, name="forbidden:Mallory").save(using=alias, force_insert=True)))
    check("usable after denials", 3, people.count())

    def lost():
        with transaction.atomic(using=alias):
            orders.create(customer_id=1, item=f"{kind}-lost")
            people.filter(pk=1).update(name="forbidden:Mallory")
    check_refusal("denied in atomic", refusal(lost))
    check("rolled back", 0, orders.filter(item=f"{kind}-lost").count())
    with transaction.atomic(using=alias):
        orders.create(customer_id=1, item=f"{kind}-kept")

        def inner():
            with transaction.atomic(using=alias):
                people.filter(pk=1).update(name="forbidden:Mallory")
        check_refusal("denied in an inner atomic", refusal(inner))
        check("healed by the savepoint", 3, people.count())
    check("what stood before it stays", 1, orders.filter(item=f"{kind}-kept").count())
    check("name is untouched", "Ada Lovelace", people.get(pk=1).name)


def copies(alias, kind):
    """Django has no COPY of its own: its cursors let psycopg's through."""
    with connections[alias].cursor() as cursor:
        with cursor.copy("COPY customers (id, email, card) TO STDOUT") as copy:
            out = b"".join(bytes(block) for block in copy).decode()
        masked("copy out, masked", "1\t[masked:pii]\t************1111", f"1\tada@example.com\t{CARD}", out.split("\n")[0])
        with cursor.copy("COPY scratch (id, what) FROM STDIN") as copy:
            for n in range(600):
                copy.write_row((n, kind))
        check("copy in", 600, Scratch.objects.using(alias).filter(what=kind).delete()[0])

        def refused():
            with cursor.copy(f"COPY customers (id, name) FROM STDIN /* forbidden:{kind}:copy */") as copy:
                copy.write_row((77, "Mallory"))
        check_refusal("denied copy in", checks.refusal(refused, psycopg.Error))
    check("usable after copies", 3, Customer.objects.using(alias).count())


def cancellation(alias):
    """Nor has it a cancel: psycopg's, from another thread, while Django waits for a result."""
    connection = connections[alias]
    connection.ensure_connection()
    timer = threading.Timer(0.5, connection.connection.cancel)
    timer.start()
    began = time.monotonic()
    with connection.cursor() as cursor:
        error = refusal(lambda: cursor.execute(checks.LONG))
    timer.join()
    check("cancelled", "57014", getattr(error, "sqlstate", None))
    check("cancelled soon", True, time.monotonic() - began < 8)
    check("usable after a cancel", 3, Customer.objects.using(alias).count())


def notifications(alias, kind):
    """News come on psycopg's connection."""
    channel = kind.replace("-", "_")
    with connections[alias].cursor() as cursor:
        cursor.execute(f"LISTEN {channel}")
        speaker = connections["bound" if alias == "default" else "default"]
        with speaker.cursor() as other:
            other.execute(f"NOTIFY {channel}, 'hello'")
        speaker.close()
        heard = [news.payload for news in connections[alias].connection.notifies(timeout=5, stop_after=1)]
        check("listen and notify", ["hello"], heard)
        cursor.execute(f"UNLISTEN {channel}")


def outside(alias, kind):
    """Others approve, change a table, and end the session."""
    name = kind.replace("-", "_")

    def run(statement):
        with connections[alias].cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    before = run("SELECT n FROM ticks")[0][0]
    checks.soon(f"approve held:{name}")
    run(checks.held(name))
    check("a held command ran once", before + 1, run("SELECT n FROM ticks")[0][0])
    for _ in range(7):
        run("SELECT id, what FROM shapes WHERE id = 1")
    checks.please(checks.column(name))
    check("a statement outlives a new column", [(1, "row 1")], run("SELECT id, what FROM shapes WHERE id = 1"))
    checks.please("kill")
    check("a killed session is an error", True, checks.refusal(lambda: run("SELECT 'forbidden:killed'"), Error) is not None)
    connections[alias].close_if_unusable_or_obsolete()
    masked("after a reconnect", "************1111", CARD, Customer.objects.using(alias).get(pk=1).card)


def main():
    for alias in ("default", "bound"):
        kind = f"django-{alias}"
        Order.objects.using(alias).filter(item__startswith=f"{kind}-").delete()
        introspection(alias)
        reading(alias)
        writing(alias, kind)
        denials(alias, kind)
        copies(alias, kind)
        cancellation(alias)
        notifications(alias, kind)
        if not DIRECT:
            outside(alias, kind)
    checks.done()


main()
