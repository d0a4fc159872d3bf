// The peer on Node.js: the same job as the samples of Google's libraries have it, without a ledger.

const functions = require('@google-cloud/functions-framework');
const {PubSub} = require('@google-cloud/pubsub');
const {SecretManagerServiceClient} = require('@google-cloud/secret-manager');
const {UserRefreshClient} = require('google-auth-library');
const grpc = require('@grpc/grpc-js');

const PROJECT = process.env.GOOGLE_CLOUD_PROJECT;
const ENDPOINT = process.env.DATA_PORTABILITY_API_ENDPOINT;
const [servicePath, port] = process.env.SECRET_MANAGER_EMULATOR_HOST.split(':'); // this library knows no emulator

const secrets = new SecretManagerServiceClient({
  servicePath,
  port: Number(port),
  sslCreds: grpc.credentials.createInsecure(),
});
const topic = new PubSub({projectId: PROJECT}).topic('archive-job-retried');
let oauthClient;

async function readSecret(id) {
  const name = `projects/${PROJECT}/secrets/${id}/versions/latest`;
  const [version] = await secrets.accessSecretVersion({name});
  return version.payload.data.toString();
}

functions.cloudEvent('retry_failed_archive_job', async event => {
  const failed = JSON.parse(Buffer.from(event.data.message.data, 'base64').toString());
  oauthClient ??= readSecret('dataportability-oauth-client').then(file => JSON.parse(file).web);
  const client = await oauthClient;
  const user = new UserRefreshClient({
    clientId: client.client_id,
    clientSecret: client.client_secret,
    refreshToken: await readSecret(`dataportability-refresh-token-${failed.userId}`),
    endpoints: {oauth2TokenUrl: client.token_uri},
  });
  const answer = await user.request({
    url: `${ENDPOINT}/v1/archiveJobs/${failed.archiveJobId}:retry`,
    method: 'POST',
    headers: {'Content-Length': '0'},
  });
  const retried = {archiveJobId: answer.data.archiveJobId, retriedArchiveJobId: failed.archiveJobId, userId: failed.userId};
  await topic.publishMessage({data: Buffer.from(JSON.stringify(retried)), attributes: {userId: failed.userId}});
});
