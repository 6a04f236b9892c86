// Send a C-ECHO, then a C-STORE of each file, by dcmjs-dimse; print the statuses last. Arguments: port and files.
const { Client, log, requests } = require("dcmjs-dimse");

const [port, ...files] = process.argv.slice(2);
const statuses = [];
const client = new Client();
for (const request of [new requests.CEchoRequest(), ...files.map((file) => new requests.CStoreRequest(file))]) {
  request.on("response", (response) => statuses.push(response.getStatus()));
  client.addRequest(request);
}
client.on("networkError", (error) => {
  throw error;
});
client.on("closed", () => console.log(JSON.stringify(statuses)));
log.disableAll();
client.send("127.0.0.1", Number(port), "DCMJS", "PRELIM");
