import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/**
 * An agent that uses JDBC: java -cp postgresql.jar Agent.java JDBC-URL [--direct].
 *
 * pgjdbc speaks the extended protocol always, names a statement when it runs the fifth time, and then asks for binary
 * results. --direct: see agent_psycopg.py.
 */
final class Agent {
    private static boolean direct;
    private static int failures;
    private static final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));

    private static void check(String name, Object expected, Object got) {
        if (Objects.equals(expected, got)) {
            System.out.println("ok " + name);
        } else {
            failures++;
            System.out.println("FAIL " + name + ": expected " + expected + " got " + got);
        }
    }

    private static void masked(String name, Object maskedValue, Object clearValue, Object got) {
        check(name, direct ? clearValue : maskedValue, got);
    }

    private interface Action {
        void run() throws Exception;
    }

    /** The error that an action ends with, or null. */
    private static SQLException refusal(Action action) throws Exception {
        try {
            action.run();
            return null;
        } catch (SQLException error) {
            return error;
        }
    }

    private static void checkRefusal(String name, SQLException error, String rule) {
        check(name + ": sqlstate", "42501", error == null ? null : error.getSQLState());
        if (direct || error == null) {
            return;
        }
        SQLException cause = error instanceof BatchUpdateException ? error.getNextException() : error;
        ServerErrorMessage said = cause instanceof PSQLException ? ((PSQLException) cause).getServerErrorMessage() : null;
        check(name + ": is a server's error", true, said != null);
        if (said == null) {
            return;
        }
        String all = said.getMessage() + " " + said.getDetail() + " " + said.getHint();
        check(name + ": names the rule", true, all.contains(rule));
        check(name + ": has the session", true, String.valueOf(said.getDetail()).contains("session"));
        check(name + ": severity", "ERROR", said.getSeverity());
    }

    private static void checkRefusal(String name, SQLException error) {
        checkRefusal(name, error, "customers-are-read-only");
    }

    private static String denied(String marker) {
        return "UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:jdbc:" + marker + " */";
    }

    private static void run(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(text);
        }
    }

    /** Every value of a result, as the driver reads text. */
    private static List<List<String>> rows(ResultSet found) throws SQLException {
        List<List<String>> all = new ArrayList<>();
        int width = found.getMetaData().getColumnCount();
        while (found.next()) {
            List<String> row = new ArrayList<>();
            for (int column = 1; column <= width; column++) {
                row.add(found.getString(column));
            }
            all.add(row);
        }
        return all;
    }

    private static List<List<String>> rows(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet found = statement.executeQuery(text)) {
            return rows(found);
        }
    }

    private static String one(Connection connection, String text) throws SQLException {
        return rows(connection, text).get(0).get(0);
    }

    private static String count(Connection connection, String item) throws SQLException {
        return one(connection, "SELECT count(*) FROM orders WHERE item = '" + item + "'");
    }

    private static void reading(Connection connection, String kind) throws Exception {
        check(kind + ": clear columns", "[[1, Ada Lovelace], [2, Grace Hopper], [3, Alan Turing]]",
            rows(connection, "SELECT id, name FROM customers ORDER BY id").toString());
        String text = "SELECT id, name, email, card, ssn, balance FROM customers WHERE id = ?";
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            // From the fifth run on: a named statement, binary results.
            for (int round = 0; round < 8; round++) {
                statement.setInt(1, 1);
                try (ResultSet found = statement.executeQuery()) {
                    found.next();
                    String name = kind + ": round " + round;
                    check(name + ", id", 1, found.getInt(1));
                    check(name + ", name", "Ada Lovelace", found.getString(2));
                    masked(name + ", email", "[masked:pii]", "ada@example.com", found.getString(3));
                    masked(name + ", card", "************1111", "4111111111111111", found.getString(4));
                    masked(name + ", ssn in varchar(11)", "***", "078-05-1120", found.getString(5));
                    check(name + ", numeric", new BigDecimal("1200.50"), found.getBigDecimal(6));
                }
            }
            statement.setInt(1, 3);
            try (ResultSet found = statement.executeQuery()) {
                check(kind + ": NULL stays NULL", "[[3, Alan Turing, null, null, null, 0]]", rows(found).toString());
            }
        }
        masked(kind + ": computed", "[[[masked:pii], null, [masked:card], 2]]", "[[ADA@EXAMPLE.COM, 16, 4111111111111111, 2]]",
            rows(connection, "SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1").toString());
        masked(kind + ": card in free text", "[[paid with ***************1111], [null], [gift]]",
            "[[paid with 4111 1111 1111 1111], [null], [gift]]",
            rows(connection, "SELECT note FROM orders WHERE id <= 3 ORDER BY id").toString());
        String view = rows(connection, "SELECT * FROM spending ORDER BY id").toString();
        check(kind + ": view, no card", direct, view.contains("4111111111111111"));
        check(kind + ": view, ids", true, view.startsWith("[[1, ") && view.contains("], [2, "));
    }

    private static void denials(Connection connection) throws Exception {
        checkRefusal("denied write", refusal(() -> run(connection, denied("plain"))));
        check("usable after a denial", "1", one(connection, "SELECT 1"));
        String text = "UPDATE customers SET name = ? WHERE id = ? /* forbidden:jdbc:bound */";
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int round = 0; round < 7; round++) {
                statement.setString(1, "Mallory");
                statement.setInt(2, 1);
                SQLException error = refusal(statement::executeUpdate);
                check("denied with values, round " + round, "42501", error == null ? null : error.getSQLState());
            }
        }
        check("usable after denied values", "1", one(connection, "SELECT 1"));
        checkRefusal("server files",
            refusal(() -> run(connection, "SELECT pg_read_file('/etc/passwd') /* forbidden:jdbc:file */")), "");
        if (!direct) {
            SQLException block = refusal(() -> run(connection, "DO $$ BEGIN PERFORM 1; END $$ /* forbidden:jdbc:do */"));
            check("DO block", "42501", block == null ? null : block.getSQLState());
        }
        String several = "INSERT INTO orders (customer, item) VALUES (1, 'jdbc-several'); " + denied("several") + "; SELECT 1";
        checkRefusal("one of several is denied", refusal(() -> run(connection, several)));
        check("none of several stays", "0", count(connection, "jdbc-several"));
        check("name is untouched", "Ada Lovelace", one(connection, "SELECT name FROM customers WHERE id = 1"));
    }

    private static void batches(Connection connection) throws Exception {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO orders (customer, item) VALUES (?, ?)")) {
            for (int n = 0; n < 200; n++) {
                insert.setInt(1, 1);
                insert.setString(2, "jdbc-batch");
                insert.addBatch();
            }
            int[] counts = insert.executeBatch();
            check("batch", 200, Arrays.stream(counts).sum());
        }
        check("batch is there", "200", count(connection, "jdbc-batch"));
        connection.setAutoCommit(false);
        SQLException error = refusal(() -> {
            try (Statement batch = connection.createStatement()) {
                batch.addBatch("INSERT INTO orders (customer, item) VALUES (1, 'jdbc-torn')");
                batch.addBatch(denied("batch"));
                batch.addBatch("INSERT INTO orders (customer, item) VALUES (1, 'jdbc-torn')");
                batch.executeBatch();
            }
        });
        checkRefusal("denied in a batch", error);
        SQLException later = refusal(() -> one(connection, "SELECT 1"));
        check("failed until the end", "25P02", later == null ? null : later.getSQLState());
        connection.rollback();
        connection.setAutoCommit(true);
        check("nothing of the batch stays", "0", count(connection, "jdbc-torn"));
        try (Statement batch = connection.createStatement()) {
            batch.addBatch("INSERT INTO orders (customer, item) VALUES (1, 'jdbc-auto')");
            batch.addBatch(denied("auto-batch"));
            batch.addBatch("INSERT INTO orders (customer, item) VALUES (1, 'jdbc-auto')");
            checkRefusal("denied in a batch without a transaction", refusal(batch::executeBatch));
        }
        check("a batch between two syncs is one transaction", "0", count(connection, "jdbc-auto"));
    }

    private static void transactions(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        run(connection, "INSERT INTO orders (customer, item) VALUES (1, 'jdbc-lost')");
        checkRefusal("denied in a transaction", refusal(() -> run(connection, denied("transaction"))));
        SQLException later = refusal(() -> one(connection, "SELECT 1"));
        check("25P02 until the end", "25P02", later == null ? null : later.getSQLState());
        // Some versions report that COMMIT became ROLLBACK, others do not.
        refusal(connection::commit);
        check("COMMIT of a failed transaction rolls back", "0", count(connection, "jdbc-lost"));
        run(connection, "INSERT INTO orders (customer, item) VALUES (1, 'jdbc-kept')");
        Savepoint before = connection.setSavepoint("before");
        checkRefusal("denied after a savepoint", refusal(() -> run(connection, denied("savepoint"))));
        connection.rollback(before);
        connection.commit();
        check("what stood before the savepoint is there", "1", count(connection, "jdbc-kept"));
        connection.commit();
        connection.setAutoCommit(true);
        String text = "INSERT INTO orders (customer, item, amount) VALUES (?, ?, ?)";
        try (PreparedStatement insert = connection.prepareStatement(text, new String[] {"id"})) {
            insert.setInt(1, 2);
            insert.setString(2, "jdbc-order");
            insert.setBigDecimal(3, new BigDecimal("1.50"));
            check("inserted", 1, insert.executeUpdate());
            try (ResultSet keys = insert.getGeneratedKeys()) {
                check("returning", true, keys.next() && keys.getInt(1) > 3);
            }
        }
    }

    private static void copies(Connection connection) throws Exception {
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringWriter out = new StringWriter();
        long lines = copy.copyOut("COPY (SELECT id, what FROM scratch WHERE id <= 3 ORDER BY id) TO STDOUT", out);
        check("copy out", "3: 1\trow 1\n2\trow 2\n3\trow 3\n", lines + ": " + out);
        StringWriter people = new StringWriter();
        copy.copyOut("COPY customers (id, email, card) TO STDOUT (FORMAT csv)", people);
        masked("copy out, masked", "1,\"[masked:pii]\",\"************1111\"", "1,ada@example.com,4111111111111111",
            people.toString().split("\n")[0]);
        check("copy in", 2L, copy.copyIn("COPY scratch (id, what) FROM STDIN", new StringReader("7\tjdbc\n8\tjdbc\n")));
        SQLException error = refusal(() ->
            copy.copyIn("COPY customers (id, name) FROM STDIN /* forbidden:jdbc:copy */", new StringReader("77\tMallory\n")));
        checkRefusal("denied copy in", error);
        check("copied", "2", one(connection, "SELECT count(*) FROM scratch WHERE what = 'jdbc'"));
        run(connection, "DELETE FROM scratch WHERE what = 'jdbc'");
    }

    /** With a fetch size, pgjdbc runs a portal with a row limit and goes on with it. */
    private static void portals(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(64);
            try (ResultSet found = statement.executeQuery("SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id")) {
                int seen = 0;
                boolean ordered = true;
                while (found.next()) {
                    seen++;
                    ordered &= found.getInt(1) == seen;
                    if (seen == 100) {
                        check("another statement between two fetches", "1", one(connection, "SELECT 1"));
                    }
                }
                check("portal, 64 rows at a time", "1000 true", seen + " " + ordered);
            }
            statement.setFetchSize(1);
            try (ResultSet found = statement.executeQuery("SELECT card FROM customers ORDER BY id")) {
                masked("portal, masked, row by row", "[[************1111], [************5559], [null]]",
                    "[[4111111111111111], [5500005555555559], [null]]", rows(found).toString());
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    private static void cancellation(Connection connection) throws Exception {
        long began = System.nanoTime();
        try (Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(500);
                    statement.cancel();
                } catch (InterruptedException | SQLException error) {
                    System.out.println("FAIL cancel: " + error);
                }
            });
            canceller.start();
            SQLException error = refusal(() -> statement.executeQuery(
                "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0"));
            canceller.join();
            check("cancelled", "57014", error == null ? null : error.getSQLState());
        }
        check("cancelled soon", true, System.nanoTime() - began < 8_000_000_000L);
        check("usable after a cancel", "1", one(connection, "SELECT 1"));
    }

    private static void soon(String wish) {
        System.out.println("please " + wish);
        System.out.flush();
    }

    private static void please(String wish) throws Exception {
        soon(wish);
        answers.readLine();
    }

    /** What others do to a session: approve, change a table, end it. */
    private static void outside(String url) throws Exception {
        try (Connection connection = DriverManager.getConnection(url)) {
            int before = Integer.parseInt(one(connection, "SELECT n FROM ticks"));
            soon("approve held:jdbc");
            run(connection, "UPDATE ticks SET n = n + 1 /* held:jdbc */");
            answers.readLine();
            check("a held command ran once", String.valueOf(before + 1), one(connection, "SELECT n FROM ticks"));
            PreparedStatement named = connection.prepareStatement("SELECT what FROM shapes WHERE id = ?");
            PreparedStatement star = connection.prepareStatement("SELECT * FROM shapes WHERE id = 1");
            for (int round = 0; round < 7; round++) {
                named.setInt(1, 1);
                named.executeQuery().close();
                star.executeQuery().close();
            }
            please("sql ALTER TABLE shapes ADD COLUMN jdbc int DEFAULT 7");
            named.setInt(1, 2);
            check("a statement outlives a new column", "[[row 2]]", rows(named.executeQuery()).toString());
            // pgjdbc prepares again by itself where no transaction is open.
            SQLException error = refusal(() -> star.executeQuery().close());
            check("a star goes on, or says that its columns changed", true, error == null || "0A000".equals(error.getSQLState()));
            String found = null;
            for (int round = 0; round < 20 && found == null; round++) {
                Thread.sleep(250);
                List<String> row = rows(star.executeQuery()).get(0);
                found = row.get(row.size() - 1);
            }
            check("and has them soon", "7", found);
            please("kill");
            check("a killed session is an error", true, refusal(() -> run(connection, "SELECT 'forbidden:killed'")) != null);
        }
        try (Connection connection = DriverManager.getConnection(url)) {
            check("after a reconnect", "************1111", one(connection, "SELECT card FROM customers WHERE id = 1"));
        }
    }

    /** LISTEN, and news that come with the next answer. */
    private static void notifications(Connection connection, String url) throws Exception {
        run(connection, "LISTEN jdbc_news");
        try (Connection speaker = DriverManager.getConnection(url)) {
            run(speaker, "NOTIFY jdbc_news, 'hello'");
        }
        PGNotification[] news = connection.unwrap(PGConnection.class).getNotifications(5000);
        check("listen and notify", "hello", news == null || news.length == 0 ? null : news[0].getParameter());
        run(connection, "UNLISTEN jdbc_news");
    }

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        direct = Arrays.asList(arguments).contains("--direct");
        try (Connection connection = DriverManager.getConnection(url)) {
            // What an earlier run left.
            run(connection, "DELETE FROM orders WHERE item LIKE 'jdbc-%'");
            reading(connection, "extended");
            denials(connection);
            batches(connection);
            transactions(connection);
            copies(connection);
            portals(connection);
            cancellation(connection);
            notifications(connection, url);
        }
        String simple = url + (url.contains("?") ? "&" : "?") + "preferQueryMode=simple";
        try (Connection connection = DriverManager.getConnection(simple)) {
            reading(connection, "simple");
            checkRefusal("simple: denied", refusal(() -> run(connection, denied("simple"))));
            check("simple: usable after a denial", "1", one(connection, "SELECT 1"));
        }
        if (!direct) {
            outside(url);
        }
        System.exit(failures == 0 ? 0 : 1);
    }
}
