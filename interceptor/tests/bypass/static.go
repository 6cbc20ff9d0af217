// Connects without libc, without an environment, without a resolver. Prints one line of JSON.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

func main() {
	conn, err := net.Dial("tcp", "10.99.0.2:7000")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	line, _ := bufio.NewReader(conn).ReadString('\n')
	fmt.Printf("{\"pid\": %d, \"ok\": %s}\n", os.Getpid(), strings.TrimSpace(line))
}
