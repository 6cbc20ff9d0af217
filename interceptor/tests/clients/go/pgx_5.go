// What agent_pgx.go has to know of pgx 5.
package main

import "github.com/jackc/pgx/v5"

// driver names the program's own column and its held command.
const driver = "pgx5"

const pgxSimple = pgx.QueryExecModeSimpleProtocol

// pgxModes are the ways in which a query can be sent; the last is the usual one.
var pgxModes = []interface{}{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
	pgxSimple, pgx.QueryExecModeCacheStatement,
}
