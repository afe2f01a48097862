// Trillian's log server and sequencer in one process, on Trillian's own storage in memory, for a Rekor v1 that lives as
// long as a test: Debian has Trillian's sources, but not all that its own programs import. What is logged is lost at the end.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	trillianlog "github.com/google/trillian/log"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/server/interceptor"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"github.com/google/trillian/util/election2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// once says of a leaf that is there that it is, as Trillian's storages on disk do: that in memory would take it again.
type once struct {
	storage.LogStorage
	mutex sync.Mutex
	known map[string]*trillian.LogLeaf
}

func (o *once) QueueLeaves(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, at time.Time) ([]*trillian.QueuedLogLeaf, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	var queued []*trillian.QueuedLogLeaf
	for _, leaf := range leaves {
		identity := string(leaf.LeafIdentityHash)
		if known, ok := o.known[identity]; ok {
			exists := status.New(codes.AlreadyExists, "the leaf is there").Proto()
			queued = append(queued, &trillian.QueuedLogLeaf{Leaf: known, Status: exists})
			continue
		}
		taken, err := o.LogStorage.QueueLeaves(ctx, tree, []*trillian.LogLeaf{leaf}, at)
		if err != nil {
			return nil, err
		}
		o.known[identity] = leaf
		queued = append(queued, taken...)
	}
	return queued, nil
}

func main() {
	endpoint := flag.String("rpc_endpoint", "127.0.0.1:8090", "Endpoint for RPC requests (host:port)")
	flag.Parse()

	trees, metrics := memory.NewTreeStorage(), monitoring.InertMetricFactory{}
	registry := extension.Registry{
		AdminStorage:    memory.NewAdminStorage(trees),
		LogStorage:      &once{LogStorage: memory.NewLogStorage(trees, metrics), known: map[string]*trillian.LogLeaf{}},
		ElectionFactory: election2.NoopFactory{},
		QuotaManager:    quota.Noop(),
		MetricFactory:   metrics,
	}
	operations := trillianlog.NewOperationManager(trillianlog.OperationInfo{
		Registry:    registry,
		BatchSize:   100,
		NumWorkers:  1,
		RunInterval: 50 * time.Millisecond,
		TimeSource:  clock.System,
	}, trillianlog.NewSequencerManager(registry, 0))
	go operations.OperationLoop(context.Background())

	listener, err := net.Listen("tcp", *endpoint)
	if err != nil {
		log.Fatal(err)
	}
	checks := interceptor.New(registry.AdminStorage, registry.QuotaManager, false, metrics)
	rpc := grpc.NewServer(grpc.ChainUnaryInterceptor(interceptor.ErrorWrapper, checks.UnaryInterceptor))
	trillian.RegisterTrillianLogServer(rpc, server.NewTrillianLogRPCServer(registry, clock.System))
	trillian.RegisterTrillianAdminServer(rpc, admin.New(registry, nil))
	log.Fatal(rpc.Serve(listener))
}
