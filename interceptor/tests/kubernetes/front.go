// What API servers since 1.30 do and that of 1.20 does not: commands over WebSockets with a way to end the input
// (v5.channel.k8s.io), and forwarded ports in a WebSocket (SPDY/3.1+portforward.k8s.io). Both are put into SPDY, as those servers
// do; all else passes to the server behind. Who may do what stays with that: tokens are passed on, and nothing is known here.
//
// `front CERTIFICATE KEY AUTHORITY UPSTREAM ADDRESS ...`, where UPSTREAM is `host:port`.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

const (
	channels = "v5.channel.k8s.io"
	tunnel   = "SPDY/3.1+portforward.k8s.io"
	closing  = 255
)

// Where the server behind is, and how it is trusted.
type front struct {
	upstream  string
	authority []byte
	tls       *tls.Config
	proxy     *httputil.ReverseProxy
}

func main() {
	authority, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	it := &front{upstream: os.Args[4], authority: authority, tls: &tls.Config{RootCAs: pool}}
	it.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: it.upstream})
	it.proxy.FlushInterval = -1
	// Of HTTP/1.1 alone, since upgrades pass as well.
	it.proxy.Transport = &http.Transport{TLSClientConfig: it.tls, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	ended := make(chan error)
	for _, address := range os.Args[5:] {
		go func(address string) {
			ended <- http.ListenAndServeTLS(address, os.Args[1], os.Args[2], it)
		}(address)
	}
	log.Fatal(<-ended)
}

func (it *front) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	offered := request.Header.Get("Sec-WebSocket-Protocol")
	serve := func(protocol string, handler func(*websocket.Conn, *http.Request)) {
		log.Printf("%s for %s", protocol, request.URL)
		agree := func(config *websocket.Config, _ *http.Request) error {
			config.Protocol = []string{protocol}
			return nil
		}
		handle := func(connection *websocket.Conn) {
			connection.PayloadType = websocket.BinaryFrame
			handler(connection, request)
		}
		websocket.Server{Handshake: agree, Handler: handle}.ServeHTTP(writer, request)
	}
	switch {
	case strings.Contains(offered, channels):
		serve(channels, it.execute)
	case strings.Contains(offered, tunnel):
		serve(tunnel, it.forward)
	default:
		it.proxy.ServeHTTP(writer, request)
	}
}

// One channel to the client; a message is a byte that says which, and what is written.
type channel struct {
	connection *websocket.Conn
	number     byte
	lock       *sync.Mutex
}

func (it channel) Write(part []byte) (int, error) {
	it.lock.Lock()
	defer it.lock.Unlock()
	return len(part), websocket.Message.Send(it.connection, append([]byte{it.number}, part...))
}

// The sizes of the client's terminal.
type sizes chan remotecommand.TerminalSize

func (it sizes) Next() *remotecommand.TerminalSize {
	size, open := <-it
	if !open {
		return nil
	}
	return &size
}

func (it *front) execute(connection *websocket.Conn, request *http.Request) {
	lock, query := &sync.Mutex{}, request.URL.Query()
	asked := func(name string) bool { yes, _ := strconv.ParseBool(query.Get(name)); return yes }
	options := remotecommand.StreamOptions{Tty: asked("tty")}
	input, typed := io.Pipe()
	terminal := make(sizes, 16)
	if asked("stdin") {
		options.Stdin = input
	}
	if asked("stdout") {
		options.Stdout = channel{connection, 1, lock}
	}
	if asked("stderr") && !options.Tty {
		options.Stderr = channel{connection, 2, lock}
	}
	if options.Tty {
		options.TerminalSizeQueue = terminal
	}
	go receive(connection, typed, terminal)
	err := it.run(request, options)
	status, _ := json.Marshal(outcome(err))
	channel{connection, 3, lock}.Write(status)
	connection.Close()
}

func (it *front) run(request *http.Request, options remotecommand.StreamOptions) error {
	config := &rest.Config{
		Host:            "https://" + it.upstream,
		BearerToken:     strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer "),
		TLSClientConfig: rest.TLSClientConfig{CAData: it.authority},
	}
	target := &url.URL{Scheme: "https", Host: it.upstream, Path: request.URL.Path, RawQuery: request.URL.RawQuery}
	executor, err := remotecommand.NewSPDYExecutor(config, "POST", target)
	if err != nil {
		return err
	}
	return executor.Stream(options)
}

// What comes from the client, until it has gone.
func receive(connection *websocket.Conn, typed *io.PipeWriter, terminal sizes) {
	defer close(terminal)
	defer typed.Close()
	for {
		var message []byte
		if websocket.Message.Receive(connection, &message) != nil || len(message) == 0 {
			return
		}
		switch message[0] {
		case 0:
			typed.Write(message[1:])
		case 4:
			size := remotecommand.TerminalSize{}
			if json.Unmarshal(message[1:], &size) == nil {
				terminal <- size
			}
		case closing:
			if len(message) == 2 && message[1] == 0 {
				typed.Close()
			}
		}
	}
}

// How it ended, as clients read it.
func outcome(err error) *metav1.Status {
	switch ended := err.(type) {
	case nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case exec.CodeExitError:
		cause := metav1.StatusCause{Type: "ExitCode", Message: strconv.Itoa(ended.Code)}
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: err.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{cause}},
		}
	case apierrors.APIStatus:
		status := ended.Status()
		return &status
	default:
		return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: err.Error()}
	}
}

// Bytes of SPDY pass as they are.
func (it *front) forward(connection *websocket.Conn, request *http.Request) {
	defer connection.Close()
	upstream, err := tls.Dial("tcp", it.upstream, it.tls)
	if err != nil {
		log.Print(err)
		return
	}
	defer upstream.Close()
	fmt.Fprintf(upstream, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", request.URL.RequestURI(), it.upstream, request.Header.Get("Authorization"))
	reader := bufio.NewReader(upstream)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		log.Print(err, response)
		return
	}
	ended := make(chan struct{}, 2)
	go func() { io.Copy(upstream, connection); ended <- struct{}{} }()
	go func() { io.Copy(connection, reader); ended <- struct{}{} }()
	<-ended
}
