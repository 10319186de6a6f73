module model-update-eventsource.test/grpc-client

go 1.24.1

// The version that Argo Events 1.9.10 dials with.
require google.golang.org/grpc v1.78.0

require google.golang.org/protobuf v1.36.10

require (
	golang.org/x/net v0.47.0 // indirect
	golang.org/x/sys v0.38.0 // indirect
	golang.org/x/text v0.31.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20251029180050-ab9386a59fda // indirect
)
