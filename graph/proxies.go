package graph

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the networks of trusted proxies: their X-Forwarded-For is believed.
type proxies []netip.Prefix

func (p proxies) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// clientIP returns the address that a request came from: that of the peer or, if the peer is a
// trusted proxy, the last one in X-Forwarded-For that is not. Other peers may write anything there,
// and it is ignored.
func (p proxies) clientIP(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	addr := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.trusted(addr); i-- {
		text := strings.TrimSpace(hops[i])
		hop, err := netip.ParseAddr(text)
		if withPort, errPort := netip.ParseAddrPort(text); errPort == nil {
			hop, err = withPort.Addr(), nil
		}
		if err != nil {
			break
		}
		addr = hop.Unmap()
	}
	return addr.String()
}
