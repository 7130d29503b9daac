// Renders chats as Ollama does: [{"Template": text, "Chats": [[{"Role", "Content"}]]}] on standard
// input gives a list of lists of texts; an error of the template is a text that begins with it.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

type sample struct {
	Template string
	Chats    [][]*message
}

func main() {
	var samples []sample
	if err := json.NewDecoder(os.Stdin).Decode(&samples); err != nil {
		panic(err)
	}
	texts := [][]string{}
	for _, s := range samples {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(s.Template))
		rendered := []string{}
		for _, chat := range s.Chats {
			var text strings.Builder
			values := map[string]any{"Messages": chat, "System": "", "Response": ""}
			if err := parsed.Execute(&text, values); err != nil {
				text.Reset()
				text.WriteString("error: " + err.Error())
			}
			rendered = append(rendered, text.String())
		}
		texts = append(texts, rendered)
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}
