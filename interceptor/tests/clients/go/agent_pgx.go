// An agent that uses pgx, without database/sql: agent_pgx URL. It is written for pgx 4; the tests build it for pgx 5 as
// well, with other import paths and with pgx_5.go in the place of pgx_4.go.
//
// pgx prepares and caches every statement, asks for binary results, and sends a batch as one pipeline.
package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

func main() {
	ctx := context.Background()
	conn := pgxConnect(ctx)
	_, err := conn.Exec(ctx, "DELETE FROM orders WHERE item LIKE 'pgx-%'")
	must(err)
	pgxReading(ctx, conn)
	pgxDenials(ctx, conn)
	pgxBatches(ctx, conn)
	pgxTransactions(ctx, conn)
	pgxCopies(ctx, conn)
	pgxCancellation(ctx, conn)
	pgxNotifications(ctx, conn)
	pgxOutside(ctx, conn)
	finish()
}

func pgxConnect(ctx context.Context) *pgx.Conn {
	conn, err := pgx.Connect(ctx, os.Args[1])
	must(err)
	return conn
}

func pgxRefused(name string, err error) {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		check(name, "a server's error", err)
		return
	}
	refused(name, said.Code, said.Severity, said.Message, said.Detail, said.Hint)
}

func pgxState(err error) string {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.Code
	}
	return ""
}

func pgxCount(ctx context.Context, conn *pgx.Conn, item string) (n int) {
	must(conn.QueryRow(ctx, "SELECT count(*) FROM orders WHERE item = $1", item).Scan(&n))
	return n
}

func pgxReading(ctx context.Context, conn *pgx.Conn) {
	for _, mode := range pgxModes {
		var id int
		var name, email, number, ssn string
		var balance float64
		err := conn.QueryRow(ctx, "SELECT id, name, email, card, ssn, balance FROM customers WHERE id = $1", mode, 1).Scan(&id, &name, &email, &number, &ssn, &balance)
		must(err)
		check("clear", []interface{}{1, "Ada Lovelace", 1200.5}, []interface{}{id, name, balance})
		check("masked", []string{"[masked:pii]", "************1111", "***"}, []string{email, number, ssn})
	}
	var email, number *string
	must(conn.QueryRow(ctx, "SELECT email, card FROM customers WHERE id = 3").Scan(&email, &number))
	check("NULL stays NULL", []bool{true, true}, []bool{email == nil, number == nil})
	var upper, joined string
	var size *int
	err := conn.QueryRow(ctx, "SELECT upper(email), length(card), card || '' FROM customers WHERE id = 1").Scan(&upper, &size, &joined)
	must(err)
	check("computed", []interface{}{"[masked:pii]", true, "[masked:card]"}, []interface{}{upper, size == nil, joined})
	var note string
	must(conn.QueryRow(ctx, "SELECT note FROM orders WHERE id = $1", 1).Scan(&note))
	check("card in free text", "paid with ***************1111", note)
	described, err := conn.Prepare(ctx, "described", "SELECT id, card FROM customers WHERE id = $1")
	must(err)
	check("described types", []uint32{23, 25}, []uint32{described.Fields[0].DataTypeOID, described.Fields[1].DataTypeOID})
	must(conn.Deallocate(ctx, "described"))
}

func pgxDenials(ctx context.Context, conn *pgx.Conn) {
	_, err := conn.Exec(ctx, denied("pgx", "plain"))
	pgxRefused("denied write", err)
	bound := "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:pgx:bound */"
	_, err = conn.Exec(ctx, bound, "Mallory", 1)
	pgxRefused("denied, with values", err)
	_, err = conn.Exec(ctx, bound, pgxSimple, "Mallory", 1)
	pgxRefused("denied, values in the text", err)
	_, err = conn.Exec(ctx, "INSERT INTO orders (customer, item) VALUES (1, 'pgx-several'); "+denied("pgx", "several"))
	pgxRefused("one of several is denied", err)
	check("none of several ran", 0, pgxCount(ctx, conn, "pgx-several"))
	var one int
	must(conn.QueryRow(ctx, "SELECT 1").Scan(&one))
	check("usable after denials", 1, one)
}

func pgxBatches(ctx context.Context, conn *pgx.Conn) {
	batch := &pgx.Batch{}
	for n := 0; n < 60; n++ {
		batch.Queue("INSERT INTO orders (customer, item, amount) VALUES ($1, $2, $3)", 1, "pgx-batch", n)
		batch.Queue("SELECT card FROM customers WHERE id = $1", n%2+1)
	}
	results := conn.SendBatch(ctx, batch)
	cards := map[string]int{}
	for n := 0; n < 60; n++ {
		_, err := results.Exec()
		must(err)
		var number string
		must(results.QueryRow().Scan(&number))
		cards[number]++
	}
	must(results.Close())
	check("a batch, masked", map[string]int{"************1111": 30, "************5559": 30}, cards)
	check("a batch is there", 60, pgxCount(ctx, conn, "pgx-batch"))
	batch = &pgx.Batch{}
	batch.Queue("INSERT INTO orders (customer, item) VALUES ($1, 'pgx-torn')", 1)
	batch.Queue(denied("pgx", "batch"))
	batch.Queue("INSERT INTO orders (customer, item) VALUES ($1, 'pgx-torn')", 1)
	results = conn.SendBatch(ctx, batch)
	var err error
	for n := 0; n < 3 && err == nil; n++ {
		_, err = results.Exec()
	}
	results.Close()
	pgxRefused("denied in a batch", err)
	check("nothing of the batch stays", 0, pgxCount(ctx, conn, "pgx-torn"))
}

func pgxTransactions(ctx context.Context, conn *pgx.Conn) {
	tx, err := conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "INSERT INTO orders (customer, item) VALUES ($1, 'pgx-lost')", 1)
	must(err)
	_, err = tx.Exec(ctx, denied("pgx", "transaction"))
	pgxRefused("denied in a transaction", err)
	_, err = tx.Exec(ctx, "SELECT 1")
	check("failed until the end", "25P02", pgxState(err))
	check("COMMIT says that it rolled back", pgx.ErrTxCommitRollback, tx.Commit(ctx))
	check("and it did", 0, pgxCount(ctx, conn, "pgx-lost"))
	tx, err = conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "INSERT INTO orders (customer, item) VALUES (1, 'pgx-kept')")
	must(err)
	inner, err := tx.Begin(ctx)
	must(err)
	_, err = inner.Exec(ctx, denied("pgx", "savepoint"))
	pgxRefused("denied after a savepoint", err)
	must(inner.Rollback(ctx))
	must(tx.Commit(ctx))
	check("what stood before the savepoint is there", 1, pgxCount(ctx, conn, "pgx-kept"))
	tx, err = conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "DECLARE walk CURSOR FOR SELECT card FROM customers ORDER BY id")
	must(err)
	var number string
	must(tx.QueryRow(ctx, "FETCH 1 FROM walk").Scan(&number))
	check("cursor, masked", "************1111", number)
	must(tx.Rollback(ctx))
}

func pgxCopies(ctx context.Context, conn *pgx.Conn) {
	rows := make([][]interface{}, 700)
	for n := range rows {
		rows[n] = []interface{}{int32(n), "pgx"}
	}
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"scratch"}, []string{"id", "what"}, pgx.CopyFromRows(rows))
	must(err)
	check("copy in, binary", int64(700), n)
	_, err = conn.Exec(ctx, "DELETE FROM scratch WHERE what = 'pgx'")
	must(err)
	var out bytes.Buffer
	_, err = conn.PgConn().CopyTo(ctx, &out, "COPY (SELECT id, card FROM customers ORDER BY id LIMIT 1) TO STDOUT")
	must(err)
	check("copy out, masked", "1\t************1111\n", out.String())
	_, err = conn.PgConn().CopyFrom(ctx, bytes.NewBufferString("77\tMallory\n"),
		"COPY customers (id, name) FROM STDIN /* forbidden:pgx:copy */")
	pgxRefused("denied copy in", err)
	check("usable after copies", 0, pgxCount(ctx, conn, "pgx-copy"))
}

func pgxCancellation(ctx context.Context, conn *pgx.Conn) {
	time.AfterFunc(500*time.Millisecond, func() { conn.PgConn().CancelRequest(ctx) })
	began := time.Now()
	_, err := conn.Exec(ctx, long)
	check("cancelled", "57014", pgxState(err))
	check("cancelled soon", true, time.Since(began) < 8*time.Second)
	check("usable after a cancel", 0, pgxCount(ctx, conn, "pgx-cancel"))
}

func pgxNotifications(ctx context.Context, conn *pgx.Conn) {
	speaker := pgxConnect(ctx)
	_, err := conn.Exec(ctx, "LISTEN pgx_news")
	must(err)
	_, err = speaker.Exec(ctx, "SELECT pg_notify('pgx_news', $1)", "hello")
	if err != nil {
		_, err = speaker.Exec(ctx, "NOTIFY pgx_news, 'hello'")
	}
	must(err)
	waiting, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	news, err := conn.WaitForNotification(waiting)
	must(err)
	check("listen and notify", "hello", news.Payload)
	must(speaker.Close(ctx))
}

// pgxOutside is what others do to a session: approve, change a table, end it.
func pgxOutside(ctx context.Context, conn *pgx.Conn) {
	var before, after int
	must(conn.QueryRow(ctx, "SELECT n FROM ticks").Scan(&before))
	soon("approve held:" + driver)
	_, err := conn.Exec(ctx, "UPDATE ticks SET n = n + 1 /* held:"+driver+" */")
	must(err)
	must(conn.QueryRow(ctx, "SELECT n FROM ticks").Scan(&after))
	check("a held command ran once", before+1, after)
	var what string
	must(conn.QueryRow(ctx, "SELECT what FROM shapes WHERE id = $1", 1).Scan(&what))
	star := func() error { return pgxDrain(ctx, conn, "SELECT * FROM shapes WHERE id = $1") }
	must(star())
	please("sql ALTER TABLE shapes ADD COLUMN " + driver + " int DEFAULT 7")
	must(conn.QueryRow(ctx, "SELECT what FROM shapes WHERE id = $1", 2).Scan(&what))
	check("a statement outlives a new column", "row 2", what)
	state := pgxState(star())
	check("a star says that its columns changed", "0A000", state)
	check("and has them when asked again", nil, star())
	var n *int
	for round := 0; round < 20 && n == nil; round++ {
		// Unknown until the catalog is old enough to be doubted.
		err = conn.QueryRow(ctx, "SELECT "+driver+" FROM shapes WHERE id = $1", 1).Scan(&n)
		check("known, or not yet", true, err == nil || pgxState(err) == "42703")
		time.Sleep(250 * time.Millisecond)
	}
	check("and their values soon", true, n != nil && *n == 7)
	please("kill")
	_, err = conn.Exec(ctx, "SELECT 'forbidden:killed'")
	check("a killed session is an error", true, err != nil)
	conn.Close(ctx)
	conn = pgxConnect(ctx)
	must(conn.QueryRow(ctx, "SELECT card FROM customers WHERE id = $1", 1).Scan(&what))
	check("after a reconnect", "************1111", what)
	must(conn.Close(ctx))
}

func pgxDrain(ctx context.Context, conn *pgx.Conn, text string) error {
	rows, err := conn.Query(ctx, text, 1)
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return rows.Err()
}
