// Parses TraceQL with Grafana's own grammar. Reads a JSON array of queries from stdin, and prints a JSON array with the
// positions of the syntax errors of each.
import { readFileSync } from "node:fs";
import { parser } from "@grafana/lezer-traceql";

const errors = (query) => {
  const found = [];
  parser.parse(query).iterate({ enter: (node) => void (node.type.isError && found.push(node.from)) });
  return found;
};

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(errors)));
