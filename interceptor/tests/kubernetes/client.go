// A program that uses client-go as those do that run in clusters: protobuf wherever there is some, and a token in a kubeconfig.
// `go-client KUBECONFIG COMMAND [ARGUMENT ...]`; what came of it goes to standard output, errors with their reason as Go has it.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
)

const namespace = "default"

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fail(err)
	}
	commands := map[string]func(*rest.Config, *kubernetes.Clientset, []string) error{
		"secrets": secrets, "watch": watch, "inform": inform, "create": create, "delete": remove, "exec": execute,
	}
	command, known := commands[os.Args[2]]
	if !known {
		fail(fmt.Errorf("no command %s", os.Args[2]))
	}
	typed := rest.CopyConfig(config)
	typed.ContentType = "application/vnd.kubernetes.protobuf"
	clients, err := kubernetes.NewForConfig(typed)
	if err != nil {
		fail(err)
	}
	if err := command(config, clients, os.Args[3:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Printf("error %q %s\n", apierrors.ReasonForError(err), err)
	os.Exit(1)
}

func say(what string, secret *corev1.Secret) {
	var data []string
	for name, value := range secret.Data {
		data = append(data, fmt.Sprintf("%s=%s", name, value))
	}
	sort.Strings(data)
	fmt.Println(what, secret.Name, strings.Join(data, " "), secret.Annotations)
}

// Every secret, of one answer.
func secrets(_ *rest.Config, clients *kubernetes.Clientset, _ []string) error {
	list, err := clients.CoreV1().Secrets(namespace).List(context.TODO(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for n := range list.Items {
		say("secret", &list.Items[n])
	}
	return nil
}

// The first event on a secret.
func watch(_ *rest.Config, clients *kubernetes.Clientset, arguments []string) error {
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + arguments[0]}
	watching, err := clients.CoreV1().Secrets(namespace).Watch(context.TODO(), options)
	if err != nil {
		return err
	}
	defer watching.Stop()
	select {
	case event := <-watching.ResultChan():
		if secret, is := event.Object.(*corev1.Secret); is {
			say(string(event.Type), secret)
			return nil
		}
		return fmt.Errorf("%s of %T", event.Type, event.Object)
	case <-time.After(20 * time.Second):
		return fmt.Errorf("nothing comes")
	}
}

// As controllers do: list, then watch, into a cache; until a config map of this name is there.
func inform(_ *rest.Config, clients *kubernetes.Clientset, arguments []string) error {
	factory := informers.NewSharedInformerFactoryWithOptions(clients, 0, informers.WithNamespace(namespace))
	found := make(chan string, 100)
	factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object interface{}) { found <- object.(*corev1.ConfigMap).Name },
	})
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	fmt.Println("synced")
	for late := time.After(30 * time.Second); ; {
		select {
		case name := <-found:
			if name == arguments[0] {
				fmt.Println("informed of", name)
				return nil
			}
		case <-late:
			return fmt.Errorf("never informed")
		}
	}
}

// Makes a config map of this name; with `privileged` behind it, a pod that is root on its node.
func create(_ *rest.Config, clients *kubernetes.Clientset, arguments []string) error {
	meta := metav1.ObjectMeta{Name: arguments[0], Labels: map[string]string{"made-by": "go"}}
	if len(arguments) == 1 {
		made := &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"x": "y"}}
		_, err := clients.CoreV1().ConfigMaps(namespace).Create(context.TODO(), made, metav1.CreateOptions{})
		if err == nil {
			fmt.Println("made", arguments[0])
		}
		return err
	}
	root := true
	container := corev1.Container{Name: "box", Image: "box", SecurityContext: &corev1.SecurityContext{Privileged: &root}}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}
	_, err := clients.CoreV1().Pods(namespace).Create(context.TODO(), pod, metav1.CreateOptions{})
	return err
}

func remove(_ *rest.Config, clients *kubernetes.Clientset, arguments []string) error {
	err := clients.CoreV1().ConfigMaps(namespace).Delete(context.TODO(), arguments[0], metav1.DeleteOptions{})
	if err == nil {
		fmt.Println("deleted", arguments[0])
	}
	return err
}

// Runs a command in a pod over SPDY, with something to read.
func execute(config *rest.Config, clients *kubernetes.Clientset, arguments []string) error {
	request := clients.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(arguments[0])
	request = request.SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Command: arguments[1:], Stdin: true, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(config, "POST", request.URL())
	if err != nil {
		return err
	}
	input := strings.NewReader("told by Go\n")
	err = executor.Stream(remotecommand.StreamOptions{Stdin: input, Stdout: os.Stdout, Stderr: os.Stdout})
	if err == nil {
		fmt.Println("ended well")
	}
	return err
}
