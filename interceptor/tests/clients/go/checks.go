// What the Go agents check with: lines of "ok" and "FAIL", and requests to the test ("please ...", answered by a line).
package main

import (
	"bufio"
	"fmt"
	"os"
	"reflect"
	"strings"
)

const (
	card = "4111111111111111"
	long = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0"
)

var (
	failures, unanswered int
	input                = bufio.NewReader(os.Stdin)
)

func check(name string, expected, got interface{}) {
	if reflect.DeepEqual(expected, got) {
		fmt.Println("ok " + name)
		return
	}
	failures++
	fmt.Printf("FAIL %s: expected %#v got %#v\n", name, expected, got)
}

// must ends the program: what failed is what everything after it stands on.
func must(err error) {
	if err != nil {
		fmt.Printf("FAIL ran through: %v\n", err)
		os.Exit(1)
	}
}

// soon asks the test for something that it does while this program goes on.
func soon(wish string) {
	fmt.Println("please " + wish)
	unanswered++
}

// please asks the test for something and waits until it is done.
func please(wish string) {
	soon(wish)
	for ; unanswered > 0; unanswered-- {
		_, err := input.ReadString('\n')
		must(err)
	}
}

// refused holds the fields of a server's error against what a denial has to say.
func refused(name, state, severity, message, detail, hint string) {
	check(name+": sqlstate", "42501", state)
	check(name+": severity", "ERROR", severity)
	check(name+": names the rule", true, strings.Contains(message+detail+hint, "customers-are-read-only"))
	check(name+": has the session", true, strings.Contains(detail, "session"))
}

func denied(driver, marker string) string {
	return "UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:" + driver + ":" + marker + " */"
}

func finish() {
	if failures > 0 {
		os.Exit(1)
	}
}
