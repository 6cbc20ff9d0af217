// An agent that uses database/sql over lib/pq: agent_pq URL.
//
// lib/pq uses the simple protocol without values and unnamed or named statements with them, always in text.
package main

import (
	"context"
	"database/sql"
	"os"
	"time"

	"github.com/lib/pq"
)

func main() {
	ctx := context.Background()
	url := os.Args[1]
	db, err := sql.Open("postgres", url)
	must(err)
	db.SetMaxOpenConns(2)
	_, err = db.Exec("DELETE FROM orders WHERE item LIKE 'pq-%'")
	must(err)
	pqReading(db)
	pqDenials(db)
	pqTransactions(db)
	pqCopies(db)
	pqCancellation(ctx, db)
	pqNotifications(url, db)
	pqOutside(db)
	must(db.Close())
	finish()
}

func pqRefused(name string, err error) {
	said, _ := err.(*pq.Error)
	if said == nil {
		check(name, "a server's error", err)
		return
	}
	refused(name, string(said.Code), said.Severity, said.Message, said.Detail, said.Hint)
}

func pqState(err error) string {
	if said, is := err.(*pq.Error); is {
		return string(said.Code)
	}
	return ""
}

func pqCount(db *sql.DB, item string) (n int) {
	must(db.QueryRow("SELECT count(*) FROM orders WHERE item = $1", item).Scan(&n))
	return n
}

func pqReading(db *sql.DB) {
	byID, err := db.Prepare("SELECT id, name, email, card, ssn, balance FROM customers WHERE id = $1")
	must(err)
	defer byID.Close()
	for round := 0; round < 3; round++ {
		var id int
		var name, email, number, ssn, balance string
		must(byID.QueryRow(1).Scan(&id, &name, &email, &number, &ssn, &balance))
		check("prepared: clear", []string{"Ada Lovelace", "1200.50"}, []string{name, balance})
		check("prepared: masked", []string{"[masked:pii]", "************1111", "***"}, []string{email, number, ssn})
	}
	var email, number sql.NullString
	must(db.QueryRow("SELECT email, card FROM customers WHERE id = 3").Scan(&email, &number))
	check("NULL stays NULL", []bool{false, false}, []bool{email.Valid, number.Valid})
	rows, err := db.Query("SELECT card FROM customers WHERE id < 3 ORDER BY id")
	must(err)
	kinds, err := rows.ColumnTypes()
	must(err)
	check("type of a masked column", "TEXT", kinds[0].DatabaseTypeName())
	var cards []string
	for rows.Next() {
		must(rows.Scan(&number))
		cards = append(cards, number.String)
	}
	must(rows.Err())
	check("simple: masked", []string{"************1111", "************5559"}, cards)
	var note string
	must(db.QueryRow("SELECT note FROM orders WHERE id = $1", 1).Scan(&note))
	check("card in free text", "paid with ***************1111", note)
	rows, err = db.Query("SELECT 1; SELECT 2")
	must(err)
	var numbers []int
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
			var n int
			must(rows.Scan(&n))
			numbers = append(numbers, n)
		}
	}
	must(rows.Close())
	check("several statements", []int{1, 2}, numbers)
}

func pqDenials(db *sql.DB) {
	_, err := db.Exec(denied("pq", "plain"))
	pqRefused("denied write", err)
	bound := "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:pq:bound */"
	_, err = db.Exec(bound, "Mallory", 1)
	pqRefused("denied, with values", err)
	_, err = db.Prepare(bound)
	pqRefused("denied when it is prepared", err)
	_, err = db.Exec("INSERT INTO orders (customer, item) VALUES (1, 'pq-several'); " + denied("pq", "several"))
	pqRefused("one of several is denied", err)
	check("none of several ran", 0, pqCount(db, "pq-several"))
	var one int
	must(db.QueryRow("SELECT 1").Scan(&one))
	check("usable after denials", 1, one)
}

func pqTransactions(db *sql.DB) {
	tx, err := db.Begin()
	must(err)
	_, err = tx.Exec("INSERT INTO orders (customer, item) VALUES ($1, 'pq-lost')", 1)
	must(err)
	_, err = tx.Exec(denied("pq", "transaction"))
	pqRefused("denied in a transaction", err)
	_, err = tx.Exec("SELECT 1")
	check("failed until the end", "25P02", pqState(err))
	check("COMMIT of a failed transaction is an error", true, tx.Commit() != nil)
	check("and rolled back", 0, pqCount(db, "pq-lost"))
	tx, err = db.Begin()
	must(err)
	_, err = tx.Exec("INSERT INTO orders (customer, item) VALUES (1, 'pq-kept'); SAVEPOINT before")
	must(err)
	_, err = tx.Exec(denied("pq", "savepoint"))
	pqRefused("denied after a savepoint", err)
	_, err = tx.Exec("ROLLBACK TO before")
	must(err)
	must(tx.Commit())
	check("what stood before the savepoint is there", 1, pqCount(db, "pq-kept"))
}

func pqCopies(db *sql.DB) {
	tx, err := db.Begin()
	must(err)
	into, err := tx.Prepare(pq.CopyIn("scratch", "id", "what"))
	must(err)
	for n := 0; n < 500; n++ {
		_, err = into.Exec(n, "pq")
		must(err)
	}
	_, err = into.Exec()
	must(err)
	must(into.Close())
	must(tx.Commit())
	done, err := db.Exec("DELETE FROM scratch WHERE what = 'pq'")
	must(err)
	n, _ := done.RowsAffected()
	check("copy in", int64(500), n)
	tx, err = db.Begin()
	must(err)
	_, err = tx.Prepare("COPY customers (id, name) FROM STDIN /* forbidden:pq:copy */")
	pqRefused("denied copy in", err)
	must(tx.Rollback())
	// lib/pq has no COPY to the client: it says so, gives the connection up, and the pool opens another.
	_, err = db.Exec("COPY (SELECT card FROM customers) TO STDOUT")
	check("copy out is an error of the driver", true, err != nil && pqState(err) == "")
	check("the pool goes on after it", 0, pqCount(db, "pq-copy"))
}

func pqCancellation(ctx context.Context, db *sql.DB) {
	soonOver, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	began := time.Now()
	var n int
	err := db.QueryRowContext(soonOver, long).Scan(&n)
	check("cancelled", true, pqState(err) == "57014" || err == context.DeadlineExceeded)
	check("cancelled soon", true, time.Since(began) < 8*time.Second)
	must(db.QueryRow("SELECT 1").Scan(&n))
	check("usable after a cancel", 1, n)
}

func pqNotifications(url string, db *sql.DB) {
	listener := pq.NewListener(url, time.Second, time.Second, nil)
	must(listener.Listen("pq_news"))
	_, err := db.Exec("NOTIFY pq_news, 'hello'")
	must(err)
	select {
	case news := <-listener.Notify:
		check("listen and notify", "hello", news.Extra)
	case <-time.After(5 * time.Second):
		check("listen and notify", "hello", "nothing")
	}
	must(listener.Close())
}

// pqOutside is what others do to a session: approve, change a table, end it.
func pqOutside(db *sql.DB) {
	var before, after int
	must(db.QueryRow("SELECT n FROM ticks").Scan(&before))
	soon("approve held:pq")
	_, err := db.Exec("UPDATE ticks SET n = n + 1 /* held:pq */")
	must(err)
	must(db.QueryRow("SELECT n FROM ticks").Scan(&after))
	check("a held command ran once", before+1, after)
	named, err := db.Prepare("SELECT what FROM shapes WHERE id = $1")
	must(err)
	var what string
	must(named.QueryRow(1).Scan(&what))
	please("sql ALTER TABLE shapes ADD COLUMN pq int DEFAULT 7")
	must(named.QueryRow(2).Scan(&what))
	check("a statement outlives a new column", "row 2", what)
	please("kill")
	// database/sql itself tries again on a new connection when the old one turns out to be broken.
	var number string
	for attempt := 0; attempt < 3; attempt++ {
		err = db.QueryRow("SELECT card FROM customers WHERE id = $1", 1).Scan(&number)
		if err == nil {
			break
		}
	}
	check("the pool reconnects", "************1111", number)
	must(named.QueryRow(3).Scan(&what))
	check("and prepares again", "row 3", what)
}
