// Command argo-events runs Argo Events' EventSource and Sensor without a controller, Pods or a cluster.
//
//	argo-events run --bus bus.yaml [--eventsource eventsource.yaml] [--sensor sensor.yaml] [--kubeconfig FILE]
//	argo-events validate FILE...
//
// Argo's two programs use the same fixed port for their metrics. This one starts both in one process, without metrics.
// `--bus` is a BusConfig (`{"jetstream": {"url": …, "streamConfig": …}}`). The objects are as users write them, and an
// unknown field is an error. Only triggers that call Kubernetes need `--kubeconfig`. The log is Argo's, on stdout. The
// program ends with the first of the two that ends, or by SIGTERM.
//
// `validate` validates each EventSource, Sensor and EventBus as Argo's controller does.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/argoproj/argo-events/pkg/apis/events/v1alpha1"
	"github.com/argoproj/argo-events/pkg/eventsources"
	"github.com/argoproj/argo-events/pkg/metrics"
	"github.com/argoproj/argo-events/pkg/reconciler/eventbus"
	"github.com/argoproj/argo-events/pkg/reconciler/eventsource"
	"github.com/argoproj/argo-events/pkg/reconciler/sensor"
	"github.com/argoproj/argo-events/pkg/sensors"
	"github.com/argoproj/argo-events/pkg/shared/logging"
)

// The namespace of objects without one.
const defaultNamespace = "default"

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "argo-events:", err)
		os.Exit(1)
	}
}

func command(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == "validate" {
		for _, file := range arguments[1:] {
			if err := validate(file); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		return nil
	}
	if len(arguments) == 0 || arguments[0] != "run" {
		return errors.New("the commands are `run` and `validate`")
	}
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	busFile := flags.String("bus", "", "a BusConfig, YAML or JSON")
	eventSourceFile := flags.String("eventsource", "", "an EventSource, YAML or JSON")
	sensorFile := flags.String("sensor", "", "a Sensor, YAML or JSON")
	kubeconfig := flags.String("kubeconfig", "", "for triggers that call Kubernetes")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	bus := &v1alpha1.BusConfig{}
	if err := read(*busFile, bus); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 2)
	if *eventSourceFile != "" {
		object := &v1alpha1.EventSource{}
		if err := read(*eventSourceFile, object); err != nil {
			return err
		}
		go func() { ended <- runEventSource(ctx, object, bus) }()
	}
	if *sensorFile != "" {
		object := &v1alpha1.Sensor{}
		if err := read(*sensorFile, object); err != nil {
			return err
		}
		go func() { ended <- runSensor(ctx, object, bus, *kubeconfig) }()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

func runEventSource(ctx context.Context, object *v1alpha1.EventSource, bus *v1alpha1.BusConfig) error {
	if object.Namespace == "" {
		object.Namespace = defaultNamespace
	}
	logger := logging.NewArgoEventsLogger().Named("eventsource").With(logging.LabelEventSourceName, object.Name)
	measured := metrics.NewMetrics(object.Namespace)
	adaptor := eventsources.NewEventSourceAdaptor(object, bus, subject(object.Namespace), "eventsource-0", measured)
	return adaptor.Start(logging.WithLogger(ctx, logger))
}

func runSensor(ctx context.Context, object *v1alpha1.Sensor, bus *v1alpha1.BusConfig, kubeconfig string) error {
	if object.Namespace == "" {
		object.Namespace = defaultNamespace
	}
	// There is no listener: a trigger that needs a cluster fails with an error.
	config := &rest.Config{Host: "http://127.0.0.1:1"}
	if kubeconfig != "" {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return err
		}
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	logger := logging.NewArgoEventsLogger().Named("sensor").With("sensorName", object.Name)
	measured := metrics.NewMetrics(object.Namespace)
	running := sensors.NewSensorContext(client, dynamicClient, object, bus, subject(object.Namespace), "sensor-0", measured)
	return running.Start(logging.WithLogger(ctx, logger))
}

func subject(namespace string) string { return "eventbus-" + namespace }

func read(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// validate validates each document of the file by its kind.
func validate(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, document := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		var kind struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal(document, &kind); err != nil {
			return err
		}
		switch kind.Kind {
		case "":
			continue
		case "EventSource":
			object := &v1alpha1.EventSource{}
			if err = yaml.UnmarshalStrict(document, object); err == nil {
				err = eventsource.ValidateEventSource(object)
			}
		case "Sensor":
			object := &v1alpha1.Sensor{}
			if err = yaml.UnmarshalStrict(document, object); err == nil {
				err = sensor.ValidateSensor(object, jetStreamBus())
			}
		case "EventBus":
			object := &v1alpha1.EventBus{}
			if err = yaml.UnmarshalStrict(document, object); err == nil {
				err = eventbus.ValidateEventBus(object)
			}
		default:
			err = errors.New("not a kind of Argo Events")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
	}
	return nil
}

// The bus that the documentation recommends: the validation of a Sensor needs one.
func jetStreamBus() *v1alpha1.EventBus {
	return &v1alpha1.EventBus{Spec: v1alpha1.EventBusSpec{JetStream: &v1alpha1.JetStreamBus{Version: "latest"}}}
}
