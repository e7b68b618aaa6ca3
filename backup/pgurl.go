package backup

import (
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
)

// pgURL is the address of a PostgreSQL database: a connection URI as in section 34.1.1.2 of the
// manual. Package net/url reads none with several hosts.
type pgURL struct {
	user, password *string
	hosts, ports   []string // of the same length; a port may be ""
	database       *string
	params         url.Values
}

// errURL does not repeat the URL, which has a password in it.
var errURL = errors.New("the PostgreSQL URL cannot be read")

func parsePGURL(s string) (u pgURL, err error) {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return u, errURL
	}
	rest, query, _ := strings.Cut(rest, "?")
	if u.params, err = url.ParseQuery(query); err != nil {
		return u, errURL
	}
	address, database, named := strings.Cut(rest, "/")
	unescape := func(s string) *string {
		text, e := url.PathUnescape(s)
		err = errors.Join(err, e)
		return &text
	}
	if named && database != "" {
		u.database = unescape(database)
	}
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		user, password, given := strings.Cut(address[:at], ":")
		u.user = unescape(user)
		if given {
			u.password = unescape(password)
		}
		address = address[at+1:]
	}
	if address != "" {
		for host := range strings.SplitSeq(address, ",") {
			var port string
			if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
				host, port = host[:colon], host[colon+1:]
			}
			u.hosts = append(u.hosts, strings.Trim(*unescape(host), "[]"))
			u.ports = append(u.ports, port)
		}
	}
	if err != nil {
		return u, errURL
	}
	return u, nil
}

// withDatabase returns the URL of another database on the same server.
func (u pgURL) withDatabase(name string) string {
	var b strings.Builder
	b.WriteString("postgres://")
	if u.user != nil {
		b.WriteString(url.PathEscape(*u.user))
		if u.password != nil {
			b.WriteString(":" + escapeUserinfo(*u.password))
		}
		b.WriteByte('@')
	}
	for i, host := range u.hosts {
		if i > 0 {
			b.WriteByte(',')
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		} else {
			host = url.PathEscape(host)
		}
		b.WriteString(host)
		if u.ports[i] != "" {
			b.WriteString(":" + u.ports[i])
		}
	}
	b.WriteString("/" + url.PathEscape(name))
	params := url.Values{}
	for key, values := range u.params {
		if key != "dbname" && key != "database" {
			params[key] = values
		}
	}
	if len(params) > 0 {
		b.WriteString("?" + params.Encode())
	}
	return b.String()
}

// escapeUserinfo escapes what ends a password in a URL, which PathEscape leaves.
func escapeUserinfo(s string) string {
	return strings.NewReplacer(":", "%3A", "@", "%40").Replace(url.PathEscape(s))
}

// libpqVariables are the environment variables of libpq for the parameters of a URL.
//
//nolint:gochecknoglobals // a constant table
var libpqVariables = map[string]string{
	"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE",
	"database": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD", "passfile": "PGPASSFILE",
	"service": "PGSERVICE", "servicefile": "PGSERVICEFILE", "options": "PGOPTIONS",
	"application_name": "PGAPPNAME", "connect_timeout": "PGCONNECT_TIMEOUT",
	"target_session_attrs": "PGTARGETSESSIONATTRS", "load_balance_hosts": "PGLOADBALANCEHOSTS",
	"channel_binding": "PGCHANNELBINDING", "require_auth": "PGREQUIREAUTH",
	"gssencmode": "PGGSSENCMODE", "krbsrvname": "PGKRBSRVNAME", "sslmode": "PGSSLMODE",
	"sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT",
	"sslcrl": "PGSSLCRL", "sslsni": "PGSSLSNI", "sslnegotiation": "PGSSLNEGOTIATION",
	"ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
	"ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}

// environment returns the environment of a program that connects with libpq: that of this process,
// with the address in variables, so that no password is on a command line, which all users of the
// machine can read. What the URL leaves out is left to libpq: its variables, .pgpass, its service
// file. Parameters of other drivers are left out.
func (u pgURL) environment() []string {
	set := map[string]string{}
	if u.user != nil {
		set["PGUSER"] = *u.user
	}
	if u.password != nil {
		set["PGPASSWORD"] = *u.password
	}
	if u.database != nil {
		set["PGDATABASE"] = *u.database
	}
	if len(u.hosts) > 0 {
		set["PGHOST"] = strings.Join(u.hosts, ",")
		if slices.ContainsFunc(u.ports, func(port string) bool { return port != "" }) {
			set["PGPORT"] = strings.Join(u.ports, ",")
		}
	}
	for name, values := range u.params {
		if variable, ok := libpqVariables[name]; ok {
			set[variable] = values[0]
		}
	}
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if _, replaced := set[name]; !replaced && !strings.HasPrefix(name, "PARLEY_") {
			env = append(env, variable)
		}
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env
}
