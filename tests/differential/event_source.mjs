// Reads event streams with Node's own EventSource, and prints what every stream shows: [[{type, data, id}, ...], ...].
// Usage: node --experimental-eventsource event_source.mjs BASE_URL NUMBER; stream N is at BASE_URL/N.

const [base, number] = process.argv.slice(2);

function read(url) {
  return new Promise((resolve) => {
    const shown = [];
    const source = new EventSource(url);
    const dispatch = source.dispatchEvent.bind(source);
    source.dispatchEvent = (event) => {
      if ("data" in event) shown.push({ type: event.type, data: String(event.data), id: event.lastEventId });
      return dispatch(event);
    };
    source.onerror = () => {
      source.close();
      resolve(shown);
    };
  });
}

const streams = [];
for (let place = 0; place < Number(number); place += 1) streams.push(await read(`${base}/${place}`));
console.log(JSON.stringify(streams));
