//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use super::app::{App, Served};
use super::error::ApiError;
use super::openapi::{Common, UnknownModel};
use super::types::{ModelInfo, ModelList};

/// What is served.
#[utoipa::path(get, path = "/v1/models", operation_id = "list_models", responses((status = 200, body = ModelList), Common))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list", data: vec![info(app.served()?)] }))
}

/// A model by its id, which may contain `/`.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieve_model",
    params(("id" = String, Path, description = "The model's id", min_length = 1)),
    responses((status = 200, body = ModelInfo), UnknownModel, Common)
)]
pub(super) async fn show(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelInfo>, ApiError> {
    let served = app.served()?;
    let Path(id) = id.map_err(|error| ApiError::invalid("model", format!("the model's id: {error}")))?;
    served.check_model(Some(&id))?;
    Ok(Json(info(served)))
}

fn info(served: &Served) -> ModelInfo {
    ModelInfo {
        id: served.id.clone(),
        object: "model",
        created: served.created,
        owned_by: "blazr",
        max_model_len: served.config.max_seq_len,
    }
}
