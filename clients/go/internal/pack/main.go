// Command pack packs the modules of this folder as a module proxy serves them, to test them as their users get them.
//
//	go run . <folder of clients/go> <version without v> <folder for the proxy>
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const root = "github.com/latchkey-auth/latchkey/clients/go"

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: pack SOURCE VERSION PROXY")
	}
	source, version, proxy := os.Args[1], "v"+os.Args[2], os.Args[3]
	for _, folder := range []string{"", "/latchkeyconnect"} {
		if err := pack(source+folder, module.Version{Path: root + folder, Version: version}, proxy); err != nil {
			log.Fatal(err)
		}
	}
}

func pack(source string, packed module.Version, proxy string) error {
	into := filepath.Join(proxy, packed.Path, "@v")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(into, packed.Version+".zip"))
	if err != nil {
		return err
	}
	if err := zip.CreateFromDir(file, packed, source); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	description, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"list":                   packed.Version + "\n",
		packed.Version + ".info": fmt.Sprintf("{\"Version\":%q,\"Time\":\"2000-01-01T00:00:00Z\"}", packed.Version),
		packed.Version + ".mod":  string(description),
	} {
		if err := os.WriteFile(filepath.Join(into, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
