// Command grpc-client subscribes to `generic.Eventing` with grpc-go, the client library of Argo Events.
//
//	grpc-client subscribe --addr 127.0.0.1:50051 --name model-update --config 'kfpNamespace: ns'
//
// It prints one JSON object a line: {"open":true} when the server has accepted the stream (the response headers have
// arrived), {"event":{"name":…,"payload":…}} for each event, and {"status":{"code":"OK","message":""}} at the end of the
// stream. The exit status is 0 for every status of the stream, and 2 for a usage error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

type event struct {
	Name    string `json:"name"`
	Payload string `json:"payload"`
}

type final struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type line struct {
	Open   bool   `json:"open,omitempty"`
	Event  *event `json:"event,omitempty"`
	Status *final `json:"status,omitempty"`
}

// Encodes the two messages by hand, without generated code.
type wire struct{}

func (wire) Name() string { return "proto" }

func (wire) Marshal(v any) ([]byte, error) {
	message, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send %T", v)
	}
	return message, nil
}

func (wire) Unmarshal(data []byte, v any) error {
	into, ok := v.(*event)
	if !ok {
		return fmt.Errorf("cannot receive %T", v)
	}
	for len(data) > 0 {
		number, kind, length := protowire.ConsumeTag(data)
		if length < 0 {
			return protowire.ParseError(length)
		}
		data = data[length:]
		if kind != protowire.BytesType {
			if length = protowire.ConsumeFieldValue(number, kind, data); length < 0 {
				return protowire.ParseError(length)
			}
			data = data[length:]
			continue
		}
		value, length := protowire.ConsumeBytes(data)
		if length < 0 {
			return protowire.ParseError(length)
		}
		data = data[length:]
		switch number {
		case 1:
			into.Name = string(value)
		case 2:
			into.Payload = string(value)
		}
	}
	return nil
}

func eventSource(name, config string) []byte {
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendString(message, name)
	message = protowire.AppendTag(message, 2, protowire.BytesType)
	return protowire.AppendString(message, config)
}

func usage(err error) {
	fmt.Fprintln(os.Stderr, "grpc-client:", err)
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 || os.Args[1] != "subscribe" {
		usage(errors.New("the only command is `subscribe`"))
	}
	flags := flag.NewFlagSet("subscribe", flag.ExitOnError)
	addr := flags.String("addr", "", "host:port of the server")
	name := flags.String("name", "model-update", "the EventSource's name")
	config := flags.String("config", "", "the EventSource's config, YAML")
	token := flags.String("token", "", "a bearer token, sent in plaintext as Argo Events does")
	window := flags.Int("window", 0, "initial flow-control window in bytes; grpc-go ignores less than 65536")
	count := flags.Int("count", 0, "cancel the stream after so many events; 0: read to the end")
	if err := flags.Parse(os.Args[2:]); err != nil || *addr == "" {
		usage(errors.New("--addr is required"))
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wire{})),
	}
	if *window > 0 {
		options = append(options, grpc.WithInitialWindowSize(int32(*window)), grpc.WithInitialConnWindowSize(int32(*window)))
	}
	connection, err := grpc.NewClient(*addr, options...)
	if err != nil {
		usage(err)
	}
	defer connection.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if *token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*token)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	err = subscribe(ctx, cancel, connection, eventSource(*name, *config), *count, out)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	end := status.Convert(err)
	if err := out.Encode(line{Status: &final{Code: end.Code().String(), Message: end.Message()}}); err != nil {
		os.Exit(1)
	}
}

// subscribe reads the stream to its end or cancels it after count events, and returns the stream's error.
func subscribe(ctx context.Context, cancel func(), connection *grpc.ClientConn, request []byte, count int, out *json.Encoder) error {
	description := &grpc.StreamDesc{StreamName: "StartEventSource", ServerStreams: true}
	stream, err := connection.NewStream(ctx, description, "/generic.Eventing/StartEventSource")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if headers, err := stream.Header(); err == nil && headers != nil {
		if err := out.Encode(line{Open: true}); err != nil {
			return err
		}
	}
	for received := 0; ; {
		var next event
		if err := stream.RecvMsg(&next); err != nil {
			return err
		}
		if err := out.Encode(line{Event: &next}); err != nil {
			return err
		}
		if received++; received == count {
			cancel()
		}
	}
}
