package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"parley/document"
	"parley/wire"
)

// ReadDocuments reads the documents that an operator trusts. The file is a JSON object of documents
// by their SHA-256, in hexadecimal digits, with or without the prefix "sha256:"; or the manifest
// that Apollo's tool writes. It is an error if a document has another hash, or is not valid for the
// schema. The depth and cost of an operation depend on its variables, and are measured with each
// request.
func ReadDocuments(file string, limits document.Limits, introspection bool) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	manifest, err := readManifest(b)
	if err != nil {
		return nil, fmt.Errorf(
			"%s is not a JSON object of documents by their hash, nor Apollo's manifest: %w",
			file, err)
	}
	reader := document.NewReader(servedSchema(), document.Options{
		Limits: limits, Introspection: introspection, Scalars: scalars(),
	})
	documents := make([]string, 0, len(manifest))
	var problems []error
	for hash, text := range manifest {
		actual := wire.Hash(text)
		if !strings.EqualFold(strings.TrimPrefix(hash, "sha256:"), actual) {
			problems = append(problems,
				fmt.Errorf("%s: the document under %s has the hash %s", file, hash, actual))
		}
		if _, list := reader.Validate(text); list != nil {
			problems = append(problems, fmt.Errorf("%s: the document %s: %w", file, hash, list))
		}
		documents = append(documents, text)
	}
	return documents, errors.Join(problems...)
}

// readManifest returns the documents by their hash, from either form.
func readManifest(b []byte) (map[string]string, error) {
	var apollo struct {
		Format     string
		Operations []struct{ ID, Body string }
	}
	err := json.Unmarshal(b, &apollo)
	if err == nil && apollo.Format == "apollo-persisted-query-manifest" {
		manifest := make(map[string]string, len(apollo.Operations))
		for _, o := range apollo.Operations {
			manifest[o.ID] = o.Body
		}
		return manifest, nil
	}
	var manifest map[string]string
	err = json.Unmarshal(b, &manifest)
	if err == nil && manifest == nil {
		err = errors.New("it is null")
	}
	return manifest, err
}
