// What agent_pgx.go has to know of pgx 4.
package main

import "github.com/jackc/pgx/v4"

// driver names the program's own column and its held command.
const driver = "pgx"

const pgxSimple = pgx.QuerySimpleProtocol(true)

// pgxModes are the ways in which a query can be sent; the last is the usual one.
var pgxModes = []interface{}{pgx.QuerySimpleProtocol(false), pgxSimple, pgx.QuerySimpleProtocol(false)}
