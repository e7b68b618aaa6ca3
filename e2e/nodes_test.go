package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"parley/pubsub/natsbus/natstest"
	"parley/store/storetest"
)

// TestNodesOverNATS starts two nodes that do not reconcile periodically. So all hints come over
// NATS, or from reconciling after a loss.
func TestNodesOverNATS(t *testing.T) {
	t.Parallel()
	nats := natstest.MustStart(t)
	settings := []string{
		on(storetest.PostgresURL(t)), "PARLEY_JWT_SECRET=the same on both nodes, and long enough",
		"PARLEY_NATS_URL=" + nats.URL(), "PARLEY_RECONCILE_EVERY=1h",
	}
	here, there := mustServe(t, settings...), mustServe(t, settings...)
	people := here.registerAll("ada", "grace", "linus")
	ada, grace, linus := people[0], people[1].at(there), people[2].at(there)
	conversation := ada.converse(people[1:]...)
	all := followOptions{ConversationID: conversation, AfterSeq: new(int64(0))}
	followers := []*follower{
		ada.follow(webSocket, all), grace.follow(webSocket, all),
		linus.follow(serverSent, all),
	}
	for _, f := range followers {
		f.want("connected")
	}
	senders := startSending(t, conversation, 40, ada, grace, linus)
	senders.finish()
	listed := ada.listed(conversation)
	senders.wantSent(listed)
	for _, f := range followers {
		f.wantAll(listed)
	}

	nats.Stop()
	for _, node := range []*server{here, there} {
		eventually(t, "a node without NATS is ready, and reports that NATS is away", func() bool {
			return strings.HasPrefix(node.ready(), "200 ok, but NATS is away: ")
		})
	}
	for i := range 3 {
		listed = append(listed, ada.send(conversation, fmt.Sprintf("into the dark %d", i)))
	}
	nats.Start()
	for _, f := range followers {
		f.wantAll(listed)
	}
	for _, p := range []*person{grace, ada} {
		live := p.send(conversation, "live again")
		for _, f := range followers {
			f.wantMessage(live)
		}
	}
	for _, node := range []*server{here, there} {
		if got := node.ready(); got != "200 ok\n" {
			t.Errorf("/readyz: %s", got)
		}
	}
}

// ready returns the answer of /readyz.
func (s *server) ready() string {
	s.t.Helper()
	res, err := s.http.Get(strings.TrimSuffix(s.api, "/graphql") + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, body)
}
